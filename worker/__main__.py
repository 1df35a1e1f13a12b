"""`python -m worker` is `refinery`."""

from worker.cli.main import main

if __name__ == "__main__":
    main()
