"""Who may connect to a live view, and that it ends whoever is connected."""

import contextlib
import socket
import threading

import pytest

from perception.replay.live_gate import Gate, refusal


def request(**fields):
    return ("GET / HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n").encode()


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8765", None, True),  # no browser
        ("localhost:8765", None, True),
        ("[::1]:8765", None, True),
        ("LOCALHOST", "https://app.foxglove.dev", True),
        ("localhost:9000", "http://localhost:8080", True),  # of a web app of one's own, through a tunnel
        ("127.0.0.1:8765", "file://", True),  # a desktop app
        ("127.0.0.1:8765", "https://evil.example", False),
        ("127.0.0.1:8765", "http://app.foxglove.dev", False),  # anybody on the way could be it
        ("127.0.0.1:8765", "https://app.foxglove.dev.evil.example", False),
        ("127.0.0.1:8765", "https://app.foxglove.dev:444", False),
        ("127.0.0.1:8765", "http://localhost.evil.example", False),
        ("127.0.0.1:8765", "http://localhost@evil.example", False),
        ("127.0.0.1:8765", "null", False),  # of a page in a sandbox, which can be anybody's
        ("127.0.0.1:8765", "", False),
        ("127.0.0.1:8765", "http://[", False),
        ("evil.example:8765", None, False),  # rebound to this machine
        ("evil.example:8765", "http://evil.example:8765", False),
        ("127.0.0.1.evil.example", None, False),
        ("", None, False),
    ],
)
def test_hosts_and_origins(host, origin, allowed):
    head = request(Host=host) if origin is None else request(Host=host, Origin=origin)
    assert (refusal(head) is None) == allowed


def test_a_request_that_says_it_twice_is_refused():
    assert refusal(b"GET / HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n\r\n")
    assert refusal(b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: file://\r\nORIGIN: http://evil.example\r\n\r\n")
    assert refusal(b"GET / HTTP/1.1\r\n\r\n")


@pytest.fixture
def echo():
    """A server that answers with what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()
    server.close()


def connected(port, data=b""):
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(data)
    return client


def test_what_is_allowed_is_passed_on_both_ways_and_the_rest_refused(echo):
    gate = Gate("127.0.0.1", 0, echo)
    head = request(Host="localhost")
    with connected(gate.port, head + b"more") as client:
        file = client.makefile("rb")
        assert file.read(len(head) + 4) == head + b"more"
        client.sendall(b"x" * 100_000)
        assert file.read(100_000) == b"x" * 100_000
    with connected(gate.port, request(Host="localhost", Origin="https://evil.example")) as client:
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 403 Forbidden\r\n")
    with connected(gate.port, b"x" * 20_000) as client, contextlib.suppress(ConnectionError):
        assert client.recv(10) == b""  # a head without end
    gate.close()


def test_it_ends_whoever_is_connected(echo):
    gate = Gate("127.0.0.1", 0, echo)
    clients = [connected(gate.port) for _ in range(20)]  # that say nothing
    clients += [connected(gate.port, request(Host="localhost")) for _ in range(20)]
    assert all(client.recv(3) == b"GET" for client in clients[20:])
    gate.close()
    for client in clients:
        with client, contextlib.suppress(ConnectionError):
            while client.recv(4096):
                pass
    with pytest.raises(ConnectionRefusedError):
        connected(gate.port)


def test_a_server_that_is_gone_and_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()
        with pytest.raises(OSError, match="in use"):
            Gate("127.0.0.1", nobody[1], nobody)
    gate = Gate("127.0.0.1", 0, nobody)
    with connected(gate.port, request(Host="localhost")) as client:
        assert client.recv(10) == b""
    gate.close()
