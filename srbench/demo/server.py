"""Serve the page: a socket of our own, no telemetry, nothing left behind."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from srbench.demo.session import Session
from srbench.errors import UsageError
from srbench.registry import load_pipeline

_SHUTDOWN_S = 3.0
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'"
)
"""What browsers may do on the page: whatever it asks for, only this server is asked."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def require_gradio() -> None:
    """Raise UsageError unless gradio is installed."""
    if find_spec("gradio") is None:
        raise UsageError(
            "the demo needs gradio, which is not installed: pip install 'gradio>=6', "
            "or install srbench with its extra `demo`"
        )


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        UsageError: The port is taken or not allowed, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}; take 127.0.0.1 or 0.0.0.0") from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--port {port} on {host}: {reason}; choose another, or 0 for any that is free"
        ) from error


def address(listening: socket.socket) -> str:
    """Where a browser finds a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    session: Session, pipelines: tuple[str, str], listening: socket.socket, folder: Path
) -> None:
    """Serve the page until Ctrl-C, which ends it at once, a picture in the making included.

    Args:
        session: Computes.
        pipelines: A and B that the page starts with.
        listening: Of `open_socket`.
        folder: For uploads and results.

    Raises:
        UsageError: No such pipeline.
        KeyboardInterrupt: Ctrl-C. A thread that computes may still be running.
    """
    # Gradio reads them when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from srbench.demo.page import CSS, THEME_FONTS, build_page

    host, port = listening.getsockname()[:2]
    app = gradio.mount_gradio_app(
        FastAPI(),
        build_page(session, pipelines, folder),
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        theme=gradio.themes.Default(**THEME_FONTS),
        css=CSS,
    )
    config = uvicorn.Config(
        _with_policy(app), log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    # Beside the main thread, which Ctrl-C interrupts: a server there would wait for the picture.
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        for name in pipelines:  # seconds that the first picture need not wait for
            load_pipeline(name)
        while thread.is_alive():
            thread.join(timeout=1)
    finally:
        server.should_exit = True
        thread.join(timeout=_SHUTDOWN_S)


def _with_policy(app: _App) -> _App:
    """The application, its pages under the content policy."""

    async def answer(scope: _Message, receive: _Receive, send: _Send) -> None:
        async def send_with_policy(message: _Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await app(scope, receive, send_with_policy)

    return answer
