"""The one exception that users are meant to see."""


class UserError(Exception):
    """Something the user can mend. Printed as one line `error: ...`; the command exits with 1.

    The text names the key, the value found, what is allowed and the way out.
    """


class Interrupted(Exception):
    """A signal asked the run to end, and it has saved. `code` is the exit status: 128 plus the signal's number."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code
