"""The commands and their options. Nothing heavy is imported before a command runs: --help must answer at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.batch_commands import batches_app
from cli.dead_letter_commands import dead_letters_app
from cli.job_commands import jobs_app
from cli.options import check_fraction, parse_rows
from models.errors import BatchmillError

EXIT_FAILURE = 1

app = typer.Typer(
    name="batchmill",
    help="Batched generation for language models: durable jobs in, sequences and logprobs out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys_app = typer.Typer(help="API keys of the service, one tenant a name.", no_args_is_help=True)
db_app = typer.Typer(help="The database: its schema, and what is kept in it.", no_args_is_help=True)
config_app = typer.Typer(help="The settings in force.", no_args_is_help=True)
app.add_typer(batches_app, name="batches")
app.add_typer(jobs_app, name="jobs")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(keys_app, name="keys")
app.add_typer(db_app, name="db")
app.add_typer(config_app, name="config")

Model = Annotated[str | None, typer.Option(help="Model folder, or an id on the Hugging Face hub (default: demo).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")]
KvDtype = Annotated[str | None, typer.Option(help="Of keys and values on a GPU: auto, as the model's, or fp8.")]
Rows = Annotated[
    str | None,
    typer.Option(parser=parse_rows, metavar="N|auto", help="Rows decoded together (default: auto, by the memory)."),
]
Fraction = Annotated[
    float | None,
    typer.Option(
        "--gpu-memory-fraction", callback=check_fraction, help="Of a GPU's memory, what may be used (default: 0.9)."
    ),
]
Reproducible = Annotated[
    bool | None, typer.Option("--reproducible", help="The same bits in every batch on a GPU too, at some speed.")
]
State = Annotated[Path | None, typer.Option(help="State directory (default: .batchmill).")]


def main() -> None:
    """Run a command; an error we know is one sentence and an exit code, never a traceback."""
    try:
        app()
    except BatchmillError as error:
        sys.stderr.write(f"batchmill: {error.message}\n")
        raise SystemExit(EXIT_FAILURE) from None


@app.command()
def run(
    input: Annotated[str, typer.Argument(help="JSONL file of prompts; - reads standard input.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Where results go, in input order; - for stdout.")],
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    rows: Rows = None,
    gpu_memory_fraction: Fraction = None,
    reproducible: Reproducible = None,
    errors: Annotated[Path | None, typer.Option(help="Where failed lines go (default: OUTPUT.errors.jsonl).")] = None,
    state: State = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run of the same input.")] = False,
) -> None:
    """Generate for every prompt of a file. Interrupted and started again, it goes on where it stopped.

    Exit status: 0 all completed, 1 failure, 2 usage, 3 some rows failed.
    """
    from cli.run import RunOptions, run_file
    from models.settings import load_settings

    settings = load_settings(
        model=model,
        dtype=dtype,
        kv_dtype=kv_dtype,
        rows=rows,
        gpu_memory_fraction=gpu_memory_fraction,
        reproducible=reproducible,
        state_dir=state,
    )
    raise SystemExit(run_file(RunOptions(input, output, errors, fresh), settings))


@app.command()
def serve(
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    rows: Rows = None,
    gpu_memory_fraction: Fraction = None,
    reproducible: Reproducible = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    state: State = None,
) -> None:
    """Run everything on one machine: HTTP service, worker, and Redis and SQLite unless their URLs are set."""
    from cli.serve import serve_all
    from models.settings import load_settings

    settings = load_settings(
        model=model,
        dtype=dtype,
        kv_dtype=kv_dtype,
        rows=rows,
        gpu_memory_fraction=gpu_memory_fraction,
        reproducible=reproducible,
        state_dir=state,
    )
    raise SystemExit(serve_all(settings, host=host, port=port))


@app.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run the HTTP service alone."""
    from cli.serve import serve_api
    from models.settings import load_settings

    serve_api(load_settings(), host=host, port=port)


@app.command()
def worker(
    model: Model = None,
    device: Device = None,
    devices: Annotated[
        str | None, typer.Option(help="all GPUs, or a list such as 0,1,3 or cpu,cpu: a worker each, one supervisor.")
    ] = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    rows: Rows = None,
    gpu_memory_fraction: Fraction = None,
    reproducible: Reproducible = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, help="GPUs to split the model among, from the device on (default: 1).")
    ] = None,
    state: State = None,
    loglevel: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a worker: one process, one model, one device. `celery -A worker.celery_app worker` works as well.

    With --devices such a process runs on each device, and is started again when it dies.
    """
    from models.settings import load_settings

    settings = load_settings(
        model=model,
        device=device,
        dtype=dtype,
        kv_dtype=kv_dtype,
        rows=rows,
        gpu_memory_fraction=gpu_memory_fraction,
        reproducible=reproducible,
        tensor_parallel=tensor_parallel,
        state_dir=state,
    )
    if devices is None:
        from cli.worker import run_worker

        raise SystemExit(run_worker(settings, loglevel=loglevel))
    if device is not None:
        raise typer.BadParameter("give this or --device, not both", param_hint="--devices")
    if settings.tensor_parallel > 1:
        raise typer.BadParameter("a worker a device, and a model split among several: not both", param_hint="--devices")
    from cli.devices import choose_devices
    from cli.supervisor import supervise

    raise SystemExit(supervise(settings, choose_devices(devices), loglevel=loglevel))


@app.command()
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the trained model.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="UTF-8 text files (default: the demo model's text).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps (default: the shipped model's).")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an interrupted run in the folder.")] = False,
) -> None:
    """Train a small model on text files, or the demo model, and save it as a Hugging Face folder.

    Prints the loss and draws it into loss.png. Interrupted and started again, it goes on from its last validation.
    """
    from cli.train import train_model

    train_model(output, files or [], steps=steps, seed=seed, fresh=fresh)


@app.command()
def doctor(model: Model = None, state: State = None) -> None:
    """Check Redis, database, device and model folder, and say what to do about what is wrong."""
    from cli.doctor import examine
    from models.settings import load_settings

    raise SystemExit(examine(load_settings(model=model, state_dir=state)))


@jobs_app.command("get")
def jobs_get(
    job_id: Annotated[str, typer.Argument(help="Any job id: cmpl-..., batch_req_..., a Celery task id.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the job to finish.")] = 0.0,
    state: State = None,
) -> None:
    """Print a job as JSON: its status, and its result once there is one."""
    from cli.jobs import print_job
    from models.settings import load_settings

    print_job(load_settings(state_dir=state), job_id, wait_seconds=wait)


@jobs_app.command("speak")
def jobs_speak(
    job_id: Annotated[str, typer.Argument(help="Id of a completed job.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a WAV file, do not play it.")] = None,
    state: State = None,
) -> None:
    """Read a job's result aloud. Needs the extra: pip install 'batchmill[speech]'."""
    from cli.speech import speak_job
    from models.settings import load_settings

    speak_job(load_settings(state_dir=state), job_id, output=output)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key: keys of one name see the same jobs and files.")],
    admin: Annotated[
        bool, typer.Option("--admin", help="It may also manage keys and see every tenant's load.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option(help="How long it lasts, such as 12h or 30d (default: for ever).")
    ] = None,
    state: State = None,
) -> None:
    """Make a key and print it: the only time it is shown."""
    from cli.keys import create_key
    from models.settings import load_settings

    create_key(load_settings(state_dir=state), name, is_admin=admin, expires=expires)


@keys_app.command("list")
def keys_list(
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
    state: State = None,
) -> None:
    """Print the keys: id, name, scope, status and times."""
    from cli.keys import list_keys
    from models.settings import load_settings

    if output not in ("table", "json"):
        raise typer.BadParameter("must be table or json", param_hint="--output")
    list_keys(load_settings(state_dir=state), as_json=output == "json")


@keys_app.command("revoke")
def keys_revoke(
    id: Annotated[str, typer.Argument(help="The key's id: the eight characters after bm_.")], state: State = None
) -> None:
    """Have a key refused from now on."""
    from cli.keys import revoke_key
    from models.settings import load_settings

    revoke_key(load_settings(state_dir=state), id)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema to this version's."""
    from cli.db import upgrade
    from models.settings import load_settings

    upgrade(load_settings())


@db_app.command("check")
def db_check() -> None:
    """Say whether the schema is this version's; exit status 1 if it is not."""
    from cli.db import check
    from models.settings import load_settings

    raise SystemExit(check(load_settings()))


@db_app.command("purge")
def db_purge(
    older_than: Annotated[
        str | None, typer.Option(help="Delete results of this age, such as 30d (default: BATCHMILL_KEEP_RESULTS_DAYS).")
    ] = None,
    inputs_older_than: Annotated[
        str | None, typer.Option(help="Delete inputs of this age (default: BATCHMILL_KEEP_INPUTS_DAYS).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    state: State = None,
) -> None:
    """Delete what is old, as a running service does by itself. Others may work on the database meanwhile."""
    from cli.purging import purge
    from models.settings import load_settings

    purge(load_settings(state_dir=state), older_than=older_than, inputs_older_than=inputs_older_than, dry_run=dry_run)


@config_app.command("show")
def config_show() -> None:
    """Print every setting as JSON, secrets masked."""
    from cli.console import write_out
    from models.settings import load_settings

    write_out(load_settings().model_dump_json(indent=2))


if __name__ == "__main__":
    main()
