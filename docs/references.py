"""References as numpydoc writes them, ``[1]_`` and ``.. [1]``, in the Markdown that the documentation is made of."""

import re
from typing import Any

import griffe


class References(griffe.Extension):
    """Turns them into plain ``[1]``, before Markdown takes the underscore for emphasis."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of anything that has one."""
        if obj.docstring is not None:
            plain = re.sub(r"\[(\w+)\]_", r"[\1]", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)\.\. \[(\w+)\] ", r"\1- [\2] ", plain, flags=re.MULTILINE)
