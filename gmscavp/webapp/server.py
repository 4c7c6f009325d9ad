"""The server: what it lets in, what it gives out, and how it begins and ends."""

import hmac
import logging
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.impacts_render import Difficulty, make_scenes, render_scene
from gmscavp.datasets.impacts_render.scenes import FPS, SAMPLE_RATE
from gmscavp.errors import UserError
from gmscavp.webapp.controls import Page
from gmscavp.webapp.limits import ENDINGS, Limits
from gmscavp.webapp.moments import Workspace
from gmscavp.webapp.page import CSS, build, theme
from gmscavp.webapp.served import Served

_EXAMPLES = 3
_LOCAL = ('127.0.0.1', 'localhost', '[::1]', '::1')
# Bytes of the disk that uploads must leave.
_LEFT_FREE = 2**30
# All comes from here; Gradio's own page needs scripts and styles in place.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' "
    "data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'"
)
_HEADERS = {
    b'content-security-policy': _POLICY.encode(),
    b'x-content-type-options': b'nosniff',
    b'referrer-policy': b'no-referrer',
}

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class Guard:
    """ASGI middleware: no request makes the server fetch from elsewhere or fill the disk; answers say what is allowed."""

    def __init__(self, app: Any, folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        """Refuse, or pass on."""

        async def sending(message: _Message) -> None:
            if message['type'] == 'http.response.start':
                kept = [(k, v) for k, v in message['headers'] if k.lower() not in _HEADERS]
                message['headers'] = [*kept, *_HEADERS.items()]
            await send(message)

        if scope['type'] == 'http' and (refused := self.refusal(scope['path'])):
            await PlainTextResponse(refused[1], refused[0])(scope, receive, sending)
        else:
            await self.app(scope, receive, sending)

    def refusal(self, path: str) -> tuple[int, str] | None:
        """Status and sentence of a request that is not passed on."""
        named = unquote(path)
        # Gradio passes on what is behind such addresses.
        if '/proxy=' in named or ('file=' in named and ':/' in named):
            return 403, 'Only files of this page are served.'
        if named.endswith('/upload') and shutil.disk_usage(self.folder).free < _LEFT_FREE:
            return 507, 'The disk of this page is full; try again later.'
        return None


@contextmanager
def serving(
    served: Served, limits: Limits, host: str, port: int, password: str = '', examples: Path | None = None
) -> Iterator[str]:
    """The page, answering in the background until the block ends; gives its address. UserError: the port is taken."""
    workspace = Workspace()
    # Gradio keeps uploads where this says.
    before = os.environ.get('GRADIO_TEMP_DIR')
    os.environ['GRADIO_TEMP_DIR'] = str(workspace.uploads)
    blocks = None
    try:
        blocks = build(Page(served, limits, workspace, example_files(served, workspace, examples)))
        yield _launched(blocks, workspace, limits, host, port, password)
    finally:
        if blocks is not None:
            blocks.close(verbose=False)
        workspace.close()
        os.environ.pop('GRADIO_TEMP_DIR')
        if before is not None:
            os.environ['GRADIO_TEMP_DIR'] = before


def wait() -> None:
    """Until Ctrl-C, or a signal to end."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()


def _launched(blocks: Any, workspace: Workspace, limits: Limits, host: str, port: int, password: str) -> str:
    guards = [Middleware(Guard, folder=workspace.folder)]
    if host in _LOCAL:
        # Else a page from elsewhere could reach this one under a name of its own.
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(_LOCAL)))
    # Every question of a browser is a line otherwise.
    logging.getLogger('httpx').setLevel(logging.WARNING)
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port or None,
            auth=(lambda user, given: hmac.compare_digest(given.encode(), password.encode())) if password else None,
            auth_message='Any user name, and the password of this page.' if password else None,
            allowed_paths=[str(workspace.made)],
            max_file_size=limits.max_mb * 2**20,
            app_kwargs=dict(middleware=guards, docs_url=None, redoc_url=None, openapi_url=None),
            css_paths=[CSS],
            theme=theme(),
            footer_links=[],
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            show_error=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(
            f'the page cannot listen on {host}:{port} ({error}); choose another --port or --host.'
        ) from error
    return str(address)


def example_files(served: Served, workspace: Workspace, folder: Path | None) -> list[Path]:
    """A few files to click: of a folder, evenly over the library, or drawn now. UserError: the folder holds none."""
    if folder is not None:
        found = sorted(path for path in folder.glob('*') if path.suffix.lower() in ENDINGS and path.is_file())
        if not found:
            raise UserError(f'--examples {folder} holds no videos, sounds or pictures; name a folder that does.')
        return found[:_EXAMPLES]
    if served.store is not None and served.root is not None:
        names = sorted(served.store.known())
        chosen = np.unique(np.linspace(0, max(0, len(names) - 1), _EXAMPLES).round().astype(int))
        there = [served.root / names[k] for k in chosen[: len(names)]]
        return [path for path in there if path.is_file()]
    return _drawn(workspace)


def _drawn(workspace: Workspace) -> list[Path]:
    """Clips of Impacts."""
    drawn = []
    for number, scene in enumerate(make_scenes(0, _EXAMPLES, 'semantic', Difficulty(), split='test')):
        drawn.append(workspace.new(f'example_{number + 1}.mp4'))
        frames, sound = render_scene(scene)
        write_clip(drawn[-1], frames, FPS, sound, SAMPLE_RATE)
    return drawn
