"""Small files from public bug reports of other tools: each is read to its right values, or refused for a named reason.

``reported/expected.json`` has the signals of each file (samples, unit, sums of values and of seconds since the first)
and the columns that are left out, or the beginning of the error. The ``kept-`` folders hold files that were right from
the start.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from anomalyvae import read_log

FOLDER = Path(__file__).parent / "reported"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_reported_file_is_read_right_or_refused(name):
    expected, path = EXPECTED[name], FOLDER / name
    options = {"databases": path.parent / expected["database"]} if "database" in expected else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "refused" in expected:
            with pytest.raises(ValueError, match=r".") as error:
                read_log(path, **options)
            assert expected["refused"] in str(error.value).replace(str(path), "").replace(path.name, "")
            return
        log = read_log(path, **options)
    assert log.signals.keys() == expected["signals"].keys()
    assert sorted(log.left_out) == expected["left_out"]
    for signal, (samples, unit, values, seconds) in expected["signals"].items():
        found = log[signal]
        assert (len(found.values), found.unit) == (samples, unit), signal
        assert np.nansum(found.values[np.isfinite(found.values)]) == pytest.approx(values, rel=1e-6, abs=1e-6), signal
        assert (found.time_s - found.time_s[:1]).sum() == pytest.approx(seconds, rel=1e-6, abs=1e-6), signal
