"""Run by `pulumi up`, `preview`, `refresh` and `destroy`."""

from infra.program import main

main()
