"""Starts `bonescan`: first what signals do, then all that takes its time to import."""

import sys

from bonescan_jax.cluster.preemption import PREEMPTION

# The verbs that save and continue; the others are short and end as any program does.
CONTINUED = ("train", "crossvalidate", "sweep")


def main() -> None:
    """Runs `bonescan VERB …`; exit codes are those of `cli`."""
    if sys.argv[1:2] and sys.argv[1] in CONTINUED:
        PREEMPTION.install()
    from bonescan_jax.cli.main import main as run_verb  # noqa: PLC0415 - after the line above

    run_verb()


if __name__ == "__main__":
    main()
