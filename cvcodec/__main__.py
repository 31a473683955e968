"""`python -m cvcodec` is the same as `cvcodec`."""

from cvcodec.cli.app import main

if __name__ == "__main__":
    main()
