"""Runs the server until it is told to stop."""

from __future__ import annotations

import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from paddle_xc2.generation.engine import Engine
from paddle_xc2.serving.gate import LOOPBACK
from paddle_xc2.serving.impatient import ImpatientProtocol

# Seconds after which Python lets another thread run. With its default of 0.005, whoever answers clients waits that long
# for the model's thread at every send: on 2 busy cores, 64 clients of the demo's model had 119 answers a second, with
# this 135.
SWITCH_SECONDS = 0.0005


def check_host(host: str, key: str | None, what: str = "--api_key") -> None:
    """Raises: ValueError for a host that others can reach, without a key."""
    if host not in LOOPBACK and not key:
        raise ValueError(f"with --host {host} others can reach this server; give it a key with {what}")


def check_port(host: str, port: int) -> None:
    """For before a model is loaded, which takes long. Raises: ValueError if the address can't be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except (OSError, OverflowError) as error:
            raise _not_to_be_had(host, port) from error


def _not_to_be_had(host: str, port: int) -> ValueError:
    return ValueError(f"port {port} of {host} can't be listened on; give another one with --port")


def serve(app: FastAPI, engine: Engine, host: str, port: int, patience: float) -> None:
    """Serves until SIGTERM or Ctrl-C; then takes no more requests, and gives those that run `patience` seconds.

    Raises: ValueError if the port is taken.
    """
    server = server_for(app, host, port, patience)
    # Uvicorn handles them while it runs, and then raises them once more for whoever handled them before.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        server.run()
    except SystemExit as error:  # uvicorn's, if it can't listen, after it has said why
        raise _not_to_be_had(host, port) from error
    finally:
        engine.close()
        sys.setswitchinterval(interval)
        for number, handler in before.items():
            signal.signal(number, handler)


def server_for(app: FastAPI, host: str, port: int, patience: float) -> uvicorn.Server:
    """Uvicorn's server of an application."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=ImpatientProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(patience),
        backlog=512,
    )
    return uvicorn.Server(config)
