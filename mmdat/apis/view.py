"""A page in the browser: what models see in an image, and what each pixel's query attends to."""

import html
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from mmdat.checks.config_file import read_config
from mmdat.checks.images import evenly_spaced
from mmdat.datasets.images import read_image
from mmdat.datasets.inputs import find_inputs, read_frames
from mmdat.errors import UserError

from .predict import warn_of_unreadable
from .predictor import SCORE_THR, Predictor
from .toolboxes import toolbox_of
from .viewer import Number, Scene, Viewer, nearest

HOST = '127.0.0.1'
FIRST_PORT = 7860
MOST_BYTES = '32mb'  # of a file
LEAST_SCORE = 0.05  # of objects that the threshold can be lowered to
MOST_SESSIONS = 32
MOST_EXAMPLES = 10
THUMBNAIL = 160  # in pixels
HEIGHT = 132  # in pixels, of what one chooses an image from
KEPT = 3600  # in seconds: how long a session's image stays after its last use
CLEANUP = (60, 300)  # in seconds: how often uploads and pictures are deleted, and from which age
TITLE = 'mmdat: see what it sees'
CSS = """
footer { display: none !important; }
h1 { font-size: 1.4em; font-weight: 600; }
.error { color: #c62828; font-weight: 600; }
.dark .error { color: #ff8a80; }
#message { min-height: 1.6em; }
#picture img, #attention img { width: 100%; max-height: 75vh; object-fit: contain; }
#picture img { cursor: crosshair; }
"""


def view(
    models: Sequence[tuple[str, str]],
    examples: str | os.PathLike | None = None,
    *,
    host: str = HOST,
    port: int | None = None,
    device: str = 'cpu',
) -> None:
    """Show models in the browser of this machine, until Ctrl-C.

    Args:
        models: Paths of a config and a checkpoint of each.
        examples: Folder of images to choose from.
        host: Address to listen on; the page is let in under this name and as ``localhost`` alone.
        port: Of the host; the first free one from 7860 if None.
        device: Such as ``'cpu'`` or ``'cuda:0'``.

    Raises:
        UserError: For a mistake in what was given; if Gradio is not installed.
    """
    if importlib.util.find_spec('gradio') is None:
        raise UserError("the viewer needs gradio: install it with pip install 'mmdat[view]'")
    paths = []
    if examples is not None:
        images = [item for item in find_inputs(examples) if not item.is_video]
        # Spaced, as the first ones may all be of one class.
        chosen = (images[index] for index in evenly_spaced(MOST_EXAMPLES, len(images)))
        frames = read_frames(chosen, warn_of_unreadable, notify=lambda text: None)
        paths = [frame.path for frame in frames]
    predictors: dict[str, Predictor] = {}
    for config, checkpoint in models:
        cfg = read_config(os.fspath(config))
        is_detector = toolbox_of(cfg).name == 'mmdet'
        name = Path(config).stem
        if name in predictors:
            name = f'{name}, {checkpoint}'
        predictors[name] = Predictor(
            cfg, checkpoint, score_thr=LEAST_SCORE if is_detector else None, device=device
        )
    with serve(Viewer(predictors), paths, port, host) as url:
        print(f'Open {url} in a browser; Ctrl-C ends it', flush=True)
        # SIGTERM ends the viewer as Ctrl-C does, so that uploads are deleted then too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()


@contextmanager
def serve(
    viewer: Viewer, examples: Sequence[str] = (), port: int | None = None, host: str = HOST
) -> Iterator[str]:
    """Serve the page while the context is entered, which gives its address.

    Nothing is read from or sent to the Internet, and no file can be fetched but those that the page
    shows. Uploads and pictures are kept in a folder of their own that is deleted at the end.

    Args:
        port: The first free one from 7860 if None.
        host: Address to listen on; ``'0.0.0.0'`` is all of this machine.

    Raises:
        UserError: If the port is none, or taken, or the host is none of this machine.
    """
    if port is not None and not 0 < port < 2**16:
        raise UserError(f'--port must be from 1 to 65535, got {port}')
    try:
        socket.create_server((host, 0)).close()
    except OSError as error:
        raise UserError(f'{host} is no address of this machine: give another --host') from error
    with (
        tempfile.TemporaryDirectory(prefix='mmdat_view_') as folder,
        _settings_of_gradio(
            ANALYTICS_ENABLED='False',
            TEMP_DIR=f'{folder}/files',
            EXAMPLES_CACHE=f'{folder}/examples',
        ),
    ):
        os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'
        import gradio
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        page = build_page(viewer, examples)
        # A page of another site, whose name was made to lead here, is not let in.
        trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, 'localhost', host])
        try:
            page.queue(api_open=False).launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                max_file_size=MOST_BYTES,
                state_session_capacity=MOST_SESSIONS,
                ssr_mode=False,
                mcp_server=False,
                app_kwargs=dict(
                    docs_url=None, redoc_url=None, openapi_url=None, middleware=[trusted]
                ),
                # The default's fonts come from Google.
                theme=gradio.themes.Default(
                    font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']
                ),
                css=CSS,
            )
        except OSError as error:
            raise UserError(
                f'port {port or FIRST_PORT} of {host} cannot be had: give another --port'
            ) from error
        try:
            yield page.local_url
        finally:
            page.close(verbose=False)


@contextmanager
def _settings_of_gradio(**settings: str) -> Iterator[None]:
    """Replace the settings of the environment, which could open files, or the page to others."""

    def take_settings() -> dict[str, str]:
        return {name: os.environ.pop(name) for name in list(os.environ) if name[:7] == 'GRADIO_'}

    before = take_settings()
    os.environ.update({f'GRADIO_{name}': value for name, value in settings.items()})
    try:
        yield
    finally:
        take_settings()
        os.environ.update(before)


def build_page(viewer: Viewer, examples: Sequence[str]) -> Any:
    """Build the page as a ``gradio.Blocks``, whose controls ask the viewer."""
    import gradio as gr

    names = list(viewer.models)
    first = viewer.limit(names[0], 3, 99, 0)
    has_scores = any(model.toolbox == 'mmdet' for model in viewer.models.values())
    bare: dict[str, Any] = dict(show_label=False, buttons=[])

    def slider(name: str, label: str, *values: float, **options: Any) -> gr.Slider:
        least, most, value, step = values
        most = max(most, least + step)  # Gradio refuses a slider with a single value
        return gr.Slider(
            least, most, value, step=step, label=label, elem_id=name, buttons=[], **options
        )

    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=CLEANUP, fill_width=True
    ) as page:
        scene = gr.State(None, time_to_live=KEPT)
        gr.HTML(f'<h1>{TITLE}</h1>', padding=False)
        with gr.Row():
            file = gr.File(height=HEIGHT, scale=1, show_label=False, elem_id='file')
            gallery = gr.Gallery(
                [_thumbnail(path) for path in examples],
                columns=MOST_EXAMPLES,
                height=HEIGHT,
                object_fit='cover',
                allow_preview=False,
                interactive=False,
                visible=bool(examples),
                scale=2,
                elem_id='examples',
                **bare,
            )
        model = gr.Radio(
            names, value=names[0], visible=len(names) > 1, show_label=False, container=False
        )
        with gr.Row():
            threshold = slider(
                'threshold', 'Score', LEAST_SCORE, 1, SCORE_THR, 0.05, visible=has_scores
            )
            heads = viewer.heads[names[0]]
            sliders = [
                slider('stage', 'Stage', min(heads) + 1, max(heads) + 1, first[0], 1),
                slider('block', 'Block', 1, len(heads[first[0] - 1]), first[1], 1),
                slider('head', 'Head (0: all)', 0, heads[first[0] - 1][-1], first[2], 1),
            ]
        message = gr.HTML(
            'Drop an image or pick an example; then click anywhere in it to see what the query of '
            'that pixel attends to.',
            elem_id='message',
            padding=False,
        )
        with gr.Row():
            picture, attention = (
                gr.Image(interactive=False, format='jpeg', elem_id=name, **bare)
                for name in ('picture', 'attention')
            )

        def tell(text: str, kind: str = 'note') -> dict[Any, Any]:
            return {message: f'<div class="{kind}">{html.escape(text)}</div>'}

        def show_picture(at: Scene | None, name: str, score_thr: Number) -> dict[Any, Any]:
            if at is None:
                return {}
            drawn, found = viewer.picture(at, name, nearest(score_thr, LEAST_SCORE, 1))
            return {picture: drawn, **tell(f'{at.name}{found}')}

        def show_attention(at: Scene | None, name: str, *wanted: Number) -> dict[Any, Any]:
            if at is None:
                return {}
            chosen = viewer.limit(name, *wanted)
            heads = viewer.heads[name]
            of_stage = heads[chosen[0] - 1]
            updates: dict[Any, Any] = {}
            for moved, least, most, value, before in zip(
                sliders,
                (min(heads) + 1, 1, 0),
                (max(heads) + 1, len(of_stage), of_stage[chosen[1] - 1]),
                chosen,
                wanted,
                strict=True,
            ):
                # A slider that is being dragged is left where it is.
                place: dict[str, Any] = {} if value == before else dict(value=value)
                updates[moved] = gr.update(minimum=least, maximum=max(most, least + 1), **place)
            try:
                return {attention: viewer.attention(at, name, *chosen), **updates}
            except UserError as error:
                return tell(str(error), 'error')

        def show_both(
            at: Scene | None, name: str, score_thr: Number, *wanted: int
        ) -> Iterator[dict[Any, Any]]:
            yield show_picture(at, name, score_thr)
            yield show_attention(at, name, *wanted)

        def read_upload(upload: dict[str, Any], *chosen: Any) -> Iterator[dict[Any, Any]]:
            yield from read(upload['path'], *chosen)

        def read(path: str, *chosen: Any) -> Iterator[dict[Any, Any]]:
            try:
                at = viewer.read(path)
            except UserError as error:
                yield {file: None, **tell(str(error), 'error')}
                return
            yield {file: None, scene: at}
            yield from show_both(at, *chosen)

        def read_example(event: gr.SelectData, *chosen: Any) -> Iterator[dict[Any, Any]]:
            yield from read(examples[event.index], *chosen)

        def click(event: gr.SelectData, at: Scene | None, *chosen: Any) -> dict[Any, Any]:
            if at is not None:
                x, y = event.index
                at.query = (x + 0.5) / at.scale, (y + 0.5) / at.scale
            return show_attention(at, *chosen)

        where = [model, *sliders]
        settings = [model, threshold, *sliders]
        drawings = [message, picture, attention, *sliders]
        common: dict[str, Any] = dict(
            show_progress='hidden',
            api_visibility='private',
            trigger_mode='always_last',
            preprocess=False,  # which refuses a typed number out of range with a traceback
        )
        file.upload(read_upload, [file, *settings], [file, scene, *drawings], **common)
        gallery.select(read_example, settings, [file, scene, *drawings], **common)
        model.input(show_both, [scene, *settings], drawings, **common)
        threshold.input(show_picture, [scene, model, threshold], [message, picture], **common)
        picture.select(click, [scene, *where], drawings, **common)
        for moving in sliders:
            moving.input(show_attention, [scene, *where], drawings, **common)
    return page


def _thumbnail(path: str) -> Image.Image:
    image = Image.fromarray(read_image(path)[..., ::-1])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
