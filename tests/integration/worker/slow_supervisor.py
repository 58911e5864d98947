"""A supervisor whose workers take their time: `python -m tests.integration.worker.slow_supervisor worker ...`."""

from cli import supervisor

if __name__ == "__main__":
    supervisor.COMMAND = ("-m", "tests.chaos.process", "--", "worker")
    from cli.main import main

    main()
