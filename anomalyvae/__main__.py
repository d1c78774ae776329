"""``python -m anomalyvae`` is the same as the command ``anomalyvae``."""

from anomalyvae.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
