"""A griffe extension: numpydoc references, ``[1]_`` and ``.. [1]``, as Markdown."""

import re
from typing import Any

import griffe


class References(griffe.Extension):
    """Turns them into plain ``[1]``, because Markdown reads the underscore as emphasis."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object, if it has one."""
        if obj.docstring is not None:
            plain = re.sub(r"\[(\w+)\]_", r"[\1]", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)\.\. \[(\w+)\] ", r"\1- [\2] ", plain, flags=re.MULTILINE)
