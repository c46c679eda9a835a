. /root/steps/lib.sh
wait_for 120 serves
for _ in $(seq 40); do request; done | sort | uniq -c | tee "$scratch/who"
[ "$(wc -l < "$scratch/who")" = 3 ] || fail "not all three backends answered"
echo "figure: $(awk '{ printf "%s%s %s", sep, $2, $1; sep = ", " }' "$scratch/who")"
