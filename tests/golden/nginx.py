#!/usr/bin/env python3
"""Asks a real nginx which server it sends each key to, and prints the answers. See README.md."""

import http.client
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib

KEYS = 200
FRONT = 19099


def points(server):
    """What is known of a server's points, to find servers that collide."""
    host, port = server.rsplit(":", 1)
    base, point = zlib.crc32(host.encode() + b"\0" + port.encode()), 0
    for _ in range(160):
        point = zlib.crc32(struct.pack("<I", point), base)
        yield point


def collisions(count):
    """Pairs of servers with a point in common, and keys that belong to just that point."""
    seen, found = {}, []
    for server in (f"127.0.0.{n}:{port}" for n in range(1, 250) for port in range(20000, 20012)):
        for point in points(server):
            other = seen.setdefault(point, server)
            if other != server:
                found.append((other, server, point))
    for one, other, point in found[:count]:
        before = max(p for p in [*points(one), *points(other)] if p < point)
        keys = (f"t{n}" for n in range(10**7))
        yield one, other, [k for k, _ in zip((k for k in keys if before < zlib.crc32(k.encode()) <= point), range(4))]


def cases(sockets):
    """(name, servers as (address, weight, down), keys or None for the numbered ones)"""
    for count in [1, 2, 3, 4, 5, 8, 16, 32]:
        yield f"equal-{count}", [(f"127.0.0.{n + 1}:2{n:04}", 1, False) for n in range(count)], None
    draw = random.Random(1)
    for round in range(8):
        servers = [(f"127.0.1.{n + 1}:{draw.choice([20001, 20080, 28080])}", draw.randint(1, 6), False)
                   for n in range(2 + round)]
        yield f"weights-{round}", servers, None
    yield "heavy", [("127.0.2.1:20001", 100, False), ("127.0.2.2:20001", 1, False)], None
    yield "no-port", [("127.0.3.1", 1, False), ("127.0.3.2", 2, False), ("127.0.3.3:20001", 1, False)], None
    yield "names", [("localhost:20001", 1, False), ("127.0.4.1:20001", 1, False), ("LOCALHOST:20002", 2, False)], None
    yield "ipv6", [("[::1]:20001", 1, False), ("[::1]", 2, False), ("[0:0:0:0:0:0:0:1]:20003", 1, False)], None
    yield "sockets", [(f"unix:{sockets}/a", 1, False), (f"UNIX:{sockets}/b", 2, False), (f"unix:{sockets}/c:80", 1, False)], None
    for down in ([0], [1, 2], [0, 1, 3]):
        servers = [(f"127.0.5.{n + 1}:20001", 1 + n % 2, n in down) for n in range(5)]
        yield "down-" + "".join(map(str, down)), servers, None
    for number, (one, other, keys) in enumerate(collisions(6)):
        yield f"tie-{number}-first", [(one, 1, False), (other, 1, False)], keys
        yield f"tie-{number}-last", [(other, 1, False), (one, 1, False)], keys


def address_of(server):
    """The address that a server's name stands for."""
    host, port = server.rsplit(":", 1) if not server.endswith("]") and ":" in server else (server, "80")
    return f"[::1]:{port}" if host.startswith("[") else f"127.0.0.1:{port}" if host.lower() == "localhost" else f"{host}:{port}"


def main():
    directory = tempfile.mkdtemp(dir="/tmp")
    os.chmod(directory, 0o755)
    # A part of what is hashed, so always the same. Nobody needs to be able to listen there.
    sockets = "/run/golden"
    everything = list(cases(sockets))
    # nginx says whom it chose even if nobody listens there (sockets, IPv6 on some machines), but slower.
    listeners = sorted({address_of(s) for _, servers, _ in everything for s, _, _ in servers if s.startswith("127.")})
    upstreams = "".join(
        f"upstream u{number} {{ hash $arg_key consistent; "
        + "".join(f"server {s} weight={w} max_fails=0{' down' if d else ''}; " for s, w, d in servers) + "}\n"
        for number, (_, servers, _) in enumerate(everything))
    with open(f"{directory}/nginx.conf", "w") as file:
        file.write(f"""
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
access_log off; server_names_hash_bucket_size 128;
client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
uwsgi_temp_path {directory}; scgi_temp_path {directory};
{upstreams}
server {{ {"".join(f"listen {address}; " for address in listeners)} return 200; }}
server {{
  listen 127.0.0.1:{FRONT};
  add_header Upstream $upstream_addr always;
  proxy_next_upstream off;
  {"".join(f"location = /u{n} {{ proxy_pass http://u{n}; }} " for n in range(len(everything)))}
}}
}}
""")
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.split("/")[1].strip()
    nginx = subprocess.Popen(["nginx", "-c", f"{directory}/nginx.conf"])
    try:
        time.sleep(1)
        connection = http.client.HTTPConnection("127.0.0.1", FRONT)
        print(f"# nginx {version}")
        for number, (name, servers, keys) in enumerate(everything):
            print(f"keys {' '.join(keys)}" if keys else f"keys key:0..{KEYS}")
            print(f"case {name}")
            owner_of = {}
            for index, (server, weight, down) in enumerate(servers):
                print(f"server {server} {weight}{' down' if down else ''}")
                # What `$upstream_addr` says of it.
                owner_of[server if server.lower().startswith("unix:") else address_of(server)] = index
            owners = []
            for key in keys or (f"key:{n}" for n in range(KEYS)):
                connection.request("GET", f"/u{number}?key={key}")
                response = connection.getresponse()
                response.read()
                addresses = response.headers["Upstream"]
                # `localhost` may stand for ::1 as well.
                owners.append(owner_of[addresses.replace("[::1]:", "127.0.0.1:") if name == "names" else addresses])
            for start in range(0, len(owners), 50):
                print("owners", *owners[start:start + 50])
    finally:
        nginx.terminate()
        nginx.wait()


if __name__ == "__main__":
    sys.exit(main())
