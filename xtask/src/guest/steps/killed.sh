. /root/steps/lib.sh
wait_for 120 serves
begin_traffic
pid=$(property MainPID)
kill -9 "$pid"
wait_for 120 started_again "$pid"
sleep 2
end_traffic
wait_for 120 serves
