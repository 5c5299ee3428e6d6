"""``python -m nc_sweeps`` is ``nc-train``."""

from nc_sweeps.train import main

main()
