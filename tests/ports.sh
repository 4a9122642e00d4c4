# Part of the scripts that start clusters for tests.

# Prints ports of loopback that nobody listens on. Until they are taken, another may come first.
free_ports() { # NUMBER
    python3 - "$1" <<'END'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
END
}
