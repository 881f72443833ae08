"""`python -m routellm_core` is the command `routellm`."""

from routellm_core.cli import main

main()
