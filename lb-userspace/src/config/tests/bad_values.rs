//! One wrong value each, in a file that is right otherwise.

use super::{BASE, check};

/// What the base says, what it says instead, the error.
const CASES: &[(&str, &str, &str)] = &[
    // [node]
    (
        r#"["eth0", "eth1"]"#,
        "[]",
        r#"2:14: [node]: interfaces is empty: a list of at least one, such as ["eth0"]"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#""eth0""#,
        r#"2:14: [node]: interfaces "eth0" is a string: a list, such as ["eth0"], is wanted"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#"["eth0", "eth0"]"#,
        r#"2:23: [node]: interface "eth0" is already used in line 2: each is named once"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#"["eth0", 1]"#,
        r#"2:23: [node]: interface 1 is an integer: a string is wanted"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#"["a/b"]"#,
        r#"2:15: [node]: interface "a/b" is not an interface's name: 1 to 15 bytes without space, slash and colon"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#"["abcdefghijklmnop"]"#,
        r#"2:15: [node]: interface "abcdefghijklmnop" is not an interface's name: 1 to 15 bytes without space, slash and colon"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#"["."]"#,
        r#"2:15: [node]: interface "." is not an interface's name: 1 to 15 bytes without space, slash and colon"#,
    ),
    (
        r#"["eth0", "eth1"]"#,
        r#"["eth 0"]"#,
        r#"2:15: [node]: interface "eth 0" is not an interface's name: 1 to 15 bytes without space, slash and colon"#,
    ),
    (
        r#"xdp_mode = "auto""#,
        r#"xdp_mode = "Native""#,
        r#"3:12: [node]: xdp_mode "Native" is unknown: did you mean "native"? allowed: auto, native, generic"#,
    ),
    (
        r#"xdp_mode = "auto""#,
        r#"xdp_mode = "offload""#,
        r#"3:12: [node]: xdp_mode "offload" is unknown: allowed: auto, native, generic"#,
    ),
    (
        r#"xdp_mode = "auto""#,
        r#"xdp_mode = true"#,
        r#"3:12: [node]: xdp_mode true is a boolean: a word in quotes is wanted"#,
    ),
    (
        r#""0x5eed""#,
        r#""5eed""#,
        r#"4:13: [node]: hash_seed "5eed" is not a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64"#,
    ),
    (
        r#""0x5eed""#,
        r#""0x""#,
        r#"4:13: [node]: hash_seed "0x" is not a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64"#,
    ),
    (
        r#""0x5eed""#,
        r#""0x10000000000000000""#,
        r#"4:13: [node]: hash_seed "0x10000000000000000" is not a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64"#,
    ),
    (
        r#""0x5eed""#,
        r#""0x+5""#,
        r#"4:13: [node]: hash_seed "0x+5" is not a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64"#,
    ),
    (
        r#""0x5eed""#,
        r#"-1"#,
        r#"4:13: [node]: hash_seed -1 is not a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64"#,
    ),
    (
        r#""0x5eed""#,
        r#"1.5"#,
        r#"4:13: [node]: hash_seed 1.5 is a float: a number or a string is wanted"#,
    ),
    (
        r#""02:00:00:00:00:01""#,
        r#""02:00:00:00:00""#,
        r#"5:15: [node]: gateway_mac "02:00:00:00:00" is not a MAC address, such as "02:00:5e:10:00:01""#,
    ),
    (
        r#""02:00:00:00:00:01""#,
        r#""02:00:00:00:00:01:02""#,
        r#"5:15: [node]: gateway_mac "02:00:00:00:00:01:02" is not a MAC address, such as "02:00:5e:10:00:01""#,
    ),
    (
        r#""02:00:00:00:00:01""#,
        r#""2:0:0:0:0:1""#,
        r#"5:15: [node]: gateway_mac "2:0:0:0:0:1" is not a MAC address, such as "02:00:5e:10:00:01""#,
    ),
    (
        r#""02:00:00:00:00:01""#,
        r#""01:00:5e:00:00:01""#,
        r#"5:15: [node]: gateway_mac "01:00:5e:00:00:01" is a multicast address: the address of one interface is wanted"#,
    ),
    (
        r#""02:00:00:00:00:01""#,
        r#""00-00-00-00-00-00""#,
        r#"5:15: [node]: gateway_mac "00-00-00-00-00-00" is zero: the address of one interface is wanted"#,
    ),
    (
        r#""10.0.0.5""#,
        r#""2001:db8::5""#,
        r#"6:20: [node]: tunnel_source_v4 "2001:db8::5" is not an IPv4 address: tunnel_source_v6 is for IPv6"#,
    ),
    (
        r#""10.0.0.5""#,
        r#""169.254.1.1""#,
        r#"6:20: [node]: tunnel_source_v4 "169.254.1.1" is a link-local address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#""2001:db8::5""#,
        r#""10.0.0.5""#,
        r#"7:20: [node]: tunnel_source_v6 "10.0.0.5" is not an IPv6 address: tunnel_source_v4 is for IPv4"#,
    ),
    (
        r#""2001:db8::5""#,
        r#""fe80::5""#,
        r#"7:20: [node]: tunnel_source_v6 "fe80::5" is a link-local address: a unicast address that others can reach is wanted"#,
    ),
    // [node.capacity]
    (
        "services = 10",
        "services = 0",
        r#"10:12: [node.capacity]: services 0 is out of range: 1 to 1000000"#,
    ),
    (
        "services = 10",
        "services = 1_000_001",
        r#"10:12: [node.capacity]: services 1_000_001 is out of range: 1 to 1000000"#,
    ),
    (
        "services = 10",
        r#"services = "10""#,
        r#"10:12: [node.capacity]: services "10" is a string: an integer is wanted"#,
    ),
    (
        "services = 10",
        "services = 1",
        r#"10:12: [node.capacity]: services = 1 is too small: the file needs 2; the first 1 of its 2 services would fit"#,
    ),
    (
        "backends = 100",
        "backends = 2",
        r#"11:12: [node.capacity]: backends = 2 is too small: the file needs 3; the first 1 of its 2 services would fit"#,
    ),
    (
        "backends = 100",
        "backends = 99999999999999999999999999",
        r#"11:12: [node.capacity]: backends 99999999999999999999999999 is out of range: 1 to 4000000"#,
    ),
    (
        r#"ring_slots = "auto""#,
        r#"ring_slots = "all""#,
        r#"12:14: [node.capacity]: ring_slots "all" is a string: a number or "auto" is wanted"#,
    ),
    (
        r#"ring_slots = "auto""#,
        "ring_slots = 131073",
        r#"12:14: [node.capacity]: ring_slots = 131073 is too small: the file needs 131074; the first 1 of its 2 services would fit"#,
    ),
    (
        r#"ring_slots = "auto""#,
        "ring_slots = 1",
        r#"12:14: [node.capacity]: ring_slots 1 is out of range: 2 to 1073741824"#,
    ),
    (
        "ring_slots",
        "ring_slot",
        r#"12:1: [node.capacity]: unknown key ring_slot: did you mean ring_slots?"#,
    ),
    // [[service]]
    (
        r#"name = "web""#,
        r#"name = "my web""#,
        r#"15:8: service number 1: name "my web" is not a name: 1 to 64 of A-Z a-z 0-9 . _ -, of which - is not the first"#,
    ),
    (
        r#"name = "web""#,
        r#"name = """#,
        r#"15:8: service number 1: name "" is not a name: 1 to 64 of A-Z a-z 0-9 . _ -, of which - is not the first"#,
    ),
    (
        r#"name = "web""#,
        r#"name = "-web""#,
        r#"15:8: service number 1: name "-web" is not a name: 1 to 64 of A-Z a-z 0-9 . _ -, of which - is not the first"#,
    ),
    (
        r#"name = "web""#,
        r#"name = "dns""#,
        r#"47:8: service "dns": name "dns" is already used in line 15: each service has its own"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "192.0.2.300""#,
        r#"16:7: service "web": vip "192.0.2.300" is not an IPv4 or IPv6 address"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "192.0.2.0/24""#,
        r#"16:7: service "web": vip "192.0.2.0/24" is not built yet: this version has VIPs of one address"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "192.0.2.0/33""#,
        r#"16:7: service "web": vip "192.0.2.0/33" is not an IPv4 or IPv6 address: a prefix length does not belong here"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "192.0.2.10:80""#,
        r#"16:7: service "web": vip "192.0.2.10:80" is not an IPv4 or IPv6 address: the port has a key of its own"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "web.example""#,
        r#"16:7: service "web": vip "web.example" is not an IPv4 or IPv6 address: names are not looked up"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "::ffff:192.0.2.10""#,
        r#"16:7: service "web": vip "::ffff:192.0.2.10" is an IPv4 address within IPv6: write "192.0.2.10""#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "224.0.0.1""#,
        r#"16:7: service "web": vip "224.0.0.1" is a multicast address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "0.0.0.0""#,
        r#"16:7: service "web": vip "0.0.0.0" is the unspecified address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "0.1.2.3""#,
        r#"16:7: service "web": vip "0.1.2.3" is an address of "this network": a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "127.0.0.1""#,
        r#"16:7: service "web": vip "127.0.0.1" is a loopback address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "255.255.255.255""#,
        r#"16:7: service "web": vip "255.255.255.255" is the broadcast address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "::""#,
        r#"16:7: service "web": vip "::" is the unspecified address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "ff02::1""#,
        r#"16:7: service "web": vip "ff02::1" is a multicast address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = 1"#,
        r#"16:7: service "web": vip 1 is an integer: an address in quotes is wanted"#,
    ),
    (
        r#"vip = "192.0.2.10""#,
        r#"vip = "10.0.0.11""#,
        r#"38:11: service "web": backend "web-1": address "10.0.0.11" is the service's own VIP: packets would come back to this node"#,
    ),
    (
        r#"protocol = "tcp""#,
        r#"protocol = "tpc""#,
        r#"17:12: service "web": protocol "tpc" is unknown: did you mean "tcp"? allowed: tcp, udp"#,
    ),
    (
        r#"protocol = "tcp""#,
        r#"protocol = "sctp""#,
        r#"17:12: service "web": protocol "sctp" is unknown: allowed: tcp, udp"#,
    ),
    (
        r#"protocol = "tcp""#,
        r#"protocol = 6"#,
        r#"17:12: service "web": protocol 6 is an integer: a word in quotes is wanted"#,
    ),
    (
        "port = 80\n",
        "port = 0\n",
        r#"18:8: service "web": port 0 is out of range: 1 to 65535"#,
    ),
    (
        "port = 80\n",
        "port = 65536\n",
        r#"18:8: service "web": port 65536 is out of range: 1 to 65535"#,
    ),
    (
        "port = 80\n",
        "port = -80\n",
        r#"18:8: service "web": port -80 is out of range: 1 to 65535"#,
    ),
    (
        "port = 80\n",
        "port = 80.0\n",
        r#"18:8: service "web": port 80.0 is a float: an integer is wanted"#,
    ),
    (
        "port = 80\n",
        "port = \"80\"\n",
        r#"18:8: service "web": port "80" is a string: a number without quotes is wanted"#,
    ),
    (
        "port = 80\n",
        "port = \"*\"\n",
        r#"18:8: service "web": port "*" is not built yet: this version has services of one port"#,
    ),
    (
        "port = 80\n",
        "port = \"8000-8100\"\n",
        r#"18:8: service "web": port "8000-8100" is not built yet: this version has services of one port"#,
    ),
    (
        "port = 80\n",
        "port = [80, 81]\n",
        r#"18:8: service "web": port [80, 81] is a list: an integer is wanted"#,
    ),
    (
        "port = 80\n",
        "port = 2026-11-20\n",
        r#"18:8: service "web": port 2026-11-20 is a date or time: an integer is wanted"#,
    ),
    (
        r#"forward = "ipip""#,
        r#"forward = "gue""#,
        r#"19:11: service "web": forward "gue" is not built yet: this version has l2 and ipip"#,
    ),
    (
        r#"forward = "ipip""#,
        r#"forward = "ipop""#,
        r#"19:11: service "web": forward "ipop" is unknown: did you mean "ipip"? allowed: l2, ipip"#,
    ),
    (
        r#"hash = "5-tuple""#,
        r#"hash = "5tuple""#,
        r#"20:8: service "web": hash "5tuple" is unknown: did you mean "5-tuple"? allowed: 5-tuple, source, source-dport, dport"#,
    ),
    (
        r#"hash = "5-tuple""#,
        r#"hash = "destination""#,
        r#"20:8: service "web": hash "destination" is unknown: allowed: 5-tuple, source, source-dport, dport"#,
    ),
    (
        r#"tracking = "adaptive""#,
        r#"tracking = "on""#,
        r#"21:12: service "web": tracking "on" is unknown: allowed: adaptive, always, never"#,
    ),
    (
        "ring_size = 65537",
        "ring_size = 65536",
        r#"22:13: service "web": ring_size 65536 is not a prime: the nearest are 65521 and 65537"#,
    ),
    (
        "ring_size = 65537",
        "ring_size = 16777214",
        r#"22:13: service "web": ring_size 16777214 is out of range: 2 to 16777213"#,
    ),
    (
        "ring_size = 65537",
        "ring_size = 1",
        r#"22:13: service "web": ring_size 1 is out of range: 2 to 16777213"#,
    ),
    (
        "ring_size = 65537",
        "ring_size = 2",
        r#"22:13: service "web": ring_size 2 has no room for 2 backends: at least 3, and 211 for even shares"#,
    ),
    (
        "ring_size",
        "ringsize",
        r#"22:1: service "web": unknown key ringsize: did you mean ring_size?"#,
    ),
    (
        "ring_size",
        "interval",
        r#"22:1: service "web": unknown key interval: it belongs in [service.health]"#,
    ),
    // [service.health]
    (
        r#"kind = "http""#,
        r#"kind = "https""#,
        r#"25:8: service "web": health: kind "https" is not built yet: this version has tcp and http"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "htttp""#,
        r#"25:8: service "web": health: kind "htttp" is unknown: did you mean "http"? allowed: tcp, http"#,
    ),
    (
        r#"path = "/healthz""#,
        r#"path = "healthz""#,
        r#"26:8: service "web": health: path "healthz" is not a path: a slash, then at most 1023 visible ASCII characters without #"#,
    ),
    (
        r#"path = "/healthz""#,
        r#"path = "/a\r\nHost: b""#,
        r#"26:8: service "web": health: path "/a\r\nHost: b" is not a path: a slash, then at most 1023 visible ASCII characters without #"#,
    ),
    (
        r#"host = "web.example""#,
        r#"host = "a b""#,
        r#"27:8: service "web": health: host "a b" is not a host: 1 to 255 of letters, digits and . - _ : [ ]"#,
    ),
    (
        "port = 8080",
        "port = 0",
        r#"28:8: service "web": health: port 0 is out of range: 1 to 65535"#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = 200"#,
        r#"29:12: service "web": health: interval 200 has no unit: write 200ms, 200s, 200m or 200h, in quotes"#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = "200""#,
        r#"29:12: service "web": health: interval "200" has no unit: write 200ms, 200s, 200m or 200h, in quotes"#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = "200us""#,
        r#"29:12: service "web": health: interval "200us" is not a duration: a number and ms, s, m or h, such as "200ms" or "1.5s""#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = "-1s""#,
        r#"29:12: service "web": health: interval "-1s" is not a duration: a number and ms, s, m or h, such as "200ms" or "1.5s""#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = "1.s""#,
        r#"29:12: service "web": health: interval "1.s" is not a duration: a number and ms, s, m or h, such as "200ms" or "1.5s""#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = "9ms""#,
        r#"29:12: service "web": health: interval "9ms" is out of range: 10ms to 1h"#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = "99999999999999999999h""#,
        r#"29:12: service "web": health: interval "99999999999999999999h" is out of range: 10ms to 1h"#,
    ),
    (
        r#"interval = "200ms""#,
        r#"interval = true"#,
        r#"29:12: service "web": health: interval true is a boolean: a duration, such as "200ms" or "1.5s", is wanted"#,
    ),
    (
        r#"timeout = "100ms""#,
        r#"timeout = "0.2001s""#,
        r#"30:11: service "web": health: timeout "0.2001s" is longer than the interval, "200ms""#,
    ),
    (
        "interval = \"200ms\"\ntimeout = \"100ms\"",
        r#"timeout = "3s""#,
        r#"29:11: service "web": health: timeout "3s" is longer than the interval, by default "2s""#,
    ),
    (
        "rise = 2",
        "rise = 0",
        r#"31:8: service "web": health: rise 0 is out of range: 1 to 100"#,
    ),
    (
        "fall = 3",
        "fall = 101",
        r#"32:8: service "web": health: fall 101 is out of range: 1 to 100"#,
    ),
    (
        "jitter = 0.1",
        "jitter = 0.51",
        r#"33:10: service "web": health: jitter 0.51 is out of range: 0 to 0.5"#,
    ),
    (
        "jitter = 0.1",
        "jitter = nan",
        r#"33:10: service "web": health: jitter nan is out of range: 0 to 0.5"#,
    ),
    (
        "jitter = 0.1",
        "jitter = -0.1",
        r#"33:10: service "web": health: jitter -0.1 is out of range: 0 to 0.5"#,
    ),
    (
        "jitter = 0.1",
        r#"jitter = "10%""#,
        r#"33:10: service "web": health: jitter "10%" is a string: a number is wanted"#,
    ),
    (
        r#"via = "direct""#,
        r#"via = "vip""#,
        r#"34:7: service "web": health: via "vip" is not built yet: this version probes the backend's own address, "direct""#,
    ),
    // [[service.backend]]
    (
        r#"name = "web-1""#,
        r#"name = "web/1""#,
        r#"37:8: service "web": backend number 1: name "web/1" is not a name: 1 to 64 of A-Z a-z 0-9 . _ -, of which - is not the first"#,
    ),
    (
        r#"name = "web-1""#,
        r#"name = "web-2""#,
        r#"42:8: service "web": backend "web-2": name "web-2" is already used in line 37: each backend of a service has its own"#,
    ),
    (
        r#"address = "10.0.0.11""#,
        r#"address = "10.0.0.12""#,
        r#"43:11: service "web": backend "web-2": address "10.0.0.12" is already used in line 38: each backend of a service has its own"#,
    ),
    (
        r#"address = "10.0.0.11""#,
        r#"address = "192.0.2.10""#,
        r#"38:11: service "web": backend "web-1": address "192.0.2.10" is the service's own VIP: packets would come back to this node"#,
    ),
    (
        r#"address = "10.0.0.11""#,
        r#"address = "fe80::1""#,
        r#"38:11: service "web": backend "web-1": address "fe80::1" is a link-local address: a unicast address that others can reach is wanted"#,
    ),
    (
        r#"address = "10.0.0.11""#,
        r#"address = "fe80::1%eth0""#,
        r#"38:11: service "web": backend "web-1": address "fe80::1%eth0" is not an IPv4 or IPv6 address: a zone does not belong here"#,
    ),
    (
        r#"address = "10.0.0.11""#,
        r#"address = "[2001:db8::1]""#,
        r#"38:11: service "web": backend "web-1": address "[2001:db8::1]" is not an IPv4 or IPv6 address: write it without brackets"#,
    ),
    (
        r#"address = "10.0.0.11""#,
        r#"adress = "10.0.0.11""#,
        r#"38:1: service "web": backend "web-1": unknown key adress: did you mean address?"#,
    ),
    (
        r#"address = "10.0.0.12""#,
        r#"address = "2001:db8::12""#,
        r#"43:11: service "web": backend "web-2": address "2001:db8::12" is of another family than the VIP 192.0.2.10: forward "l2" changes no address, "ipip" can"#,
    ),
    (
        "weight = 100",
        "weight = 70000",
        r#"39:10: service "web": backend "web-1": weight 70000 is out of range: 0 to 65535"#,
    ),
    (
        "weight = 100",
        "weight = -1",
        r#"39:10: service "web": backend "web-1": weight -1 is out of range: 0 to 65535"#,
    ),
    (
        "weight = 100",
        "wieght = 100",
        r#"39:1: service "web": backend "web-1": unknown key wieght: did you mean weight?"#,
    ),
    (
        "weight = 100",
        "colour = 'red'",
        r#"39:1: service "web": backend "web-1": unknown key colour: allowed: name, address, weight, forward"#,
    ),
    (
        r#"forward = "l2""#,
        r#"forward = "gre""#,
        r#"44:11: service "web": backend "web-2": forward "gre" is not built yet: this version has l2 and ipip"#,
    ),
    (
        "address = \"2001:db8::11\"",
        "address = \"2001:db8::11\"\nweight = 0",
        r#"55:10: service "dns": every weight is 0, so no backend would get traffic: one of 1 to 65535 is wanted"#,
    ),
];

#[test]
fn one_wrong_value_is_one_error() {
    for (good, bad, error) in CASES {
        assert_eq!(BASE.matches(good).count(), 1, "{good:?} stands once in the base");
        check(&BASE.replace(good, bad), &[error]);
    }
}
