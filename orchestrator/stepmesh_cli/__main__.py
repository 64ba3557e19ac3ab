"""`python -m stepmesh_cli`: the same as `stepmesh`."""

from stepmesh_cli.main import main

raise SystemExit(main())
