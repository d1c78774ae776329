"""The network as operators of an ONNX graph: codes of rows, and the scores.

Each function mirrors its namesake in `anomalyvae.nets`.
"""

import math
from collections.abc import Callable
from typing import Any

from onnx import TensorProto
from torch import Tensor

from anomalyvae.export import layers
from anomalyvae.export.likelihoods import expected, residual, row_nll
from anomalyvae.export.nodes import Value, cast, concat, double, working
from anomalyvae.export.scaling import Cells, asinh
from anomalyvae.nets.described import CODE, LOW, PEAKS, Described
from anomalyvae.nets.elbo import Elbo
from anomalyvae.nets.ellipsoid import STEPS, least_gradient, precision_of
from anomalyvae.nets.likelihoods import LOG_2PI
from anomalyvae.nets.memory import NEIGHBOURS, Memory
from anomalyvae.nets.objectives import Adversarial
from anomalyvae.nets.reconstruction import REACH, Reconstruction
from anomalyvae.nets.scaling import LIMIT
from anomalyvae.nets.views import BANDWIDTH, COUNTED, LEAST, NEARER, SURER, VIEWS, Views
from anomalyvae.nets.window_views import WindowViews


def _codes(network: Reconstruction, cells: Cells, part: int = 0) -> Value:
    """Posterior means, or the codes of an autoencoder (part 0), or log variances (part 1), ``(n, latent_dim)``."""
    whole = Cells(cells.s.op("Clip", -REACH, REACH), cells.missing)
    features = layers.encode(network.body, network.input_shape, whole.filled(network.missing))
    rows = slice(part * network.latent_dim, (part + 1) * network.latent_dim)
    return layers.linear(features, network.to_code.weight[rows], network.to_code.bias[rows])


def encode(network: Reconstruction, cells: Cells) -> Value:
    """Codes, or posterior means, ``(n, latent_dim)``."""
    return _codes(network, cells)


def _posterior(network: Reconstruction, cells: Cells) -> tuple[Value, Value]:
    return _codes(network, cells), _codes(network, cells, 1).op("Clip", -12.0, 12.0)


def decode(network: Reconstruction, z: Value) -> Value:
    """Codes ``(n, latent_dim)`` -> the decoder's output, ``(n, cells)``."""
    return layers.decode(network.body, network.input_shape, z)


# The scores, each of shape (n, 1)


def _reconstruction(network: Reconstruction, cells: Cells) -> Value:
    return row_nll(network.likelihood, cells, decode(network, encode(network, cells)))


def _kl(network: Elbo, cells: Cells) -> Value:
    mean, log_var = _posterior(network, cells)
    return ((log_var.op("Exp") + mean * mean - log_var).sum() - float(network.latent_dim)) * 0.5


def _elbo(network: Elbo, cells: Cells) -> Value:
    return _reconstruction(network, cells) + _kl(network, cells)


def _log_likelihood(network: Elbo, cells: Cells) -> Value:
    mean, log_var = _posterior(network, cells)
    std = (log_var * 0.5).op("Exp")

    def log_weight(_: Value, noise: Value) -> Value:
        z = mean + std * noise
        log_ratio = ((log_var - z * z + noise * noise) * 0.5).sum()
        return log_ratio - row_nll(network.likelihood, cells, decode(network, z))

    points = mean.graph.value(network.noise, mean.single)
    _, log_weights = mean.graph.scan(log_weight, mean.sum(), points)  # (points, n, 1); a step ignores the state
    highest = log_weights.op("ReduceMax", [0], keepdims=0)
    total = (log_weights - highest).op("Exp").op("ReduceSum", [0], keepdims=0).op("Log") + highest
    return total.op("Neg") + math.log(len(network.noise))


def _critic(network: Adversarial, cells: Cells) -> Value:
    return _rarity(network, encode(network, cells))


def _energy(network: Adversarial, cells: Cells) -> Value:
    z = encode(network, cells)
    return row_nll(network.likelihood, cells, decode(network, z)) + _rarity(network, z)


def _rarity(network: Adversarial, z: Value) -> Value:
    logit = layers.in_turn(network.discriminator, (network.latent_dim,), z)
    return logit + ((z * z).sum() + network.latent_dim * LOG_2PI) * 0.5


def _imputed(network: Reconstruction, cells: Cells) -> tuple[Value, Value]:
    """What missing cells are replaced by, and the codes of rows without any."""
    imputed = expected(network.likelihood, decode(network, encode(network, cells)))
    return imputed, encode(network, Cells(cells.filled(imputed), None))


def _memory_features(network: Reconstruction, cells: Cells) -> Value:
    """Row, code and residual side by side, which are compared with stored ones, ``(n, k)``; of windows no residual."""
    imputed, z = _imputed(network, cells)
    if network.described is not None:
        assert cells.missing is not None  # noqa: S101 - a window has numbers alone
        s = cells.missing.op("Where", double(imputed), cells.precise)
        return concat([z * CODE, working(_described(network.described, s, cells.missing))])
    return concat([cells.filled(imputed), z, asinh(residual(network.likelihood, cells, decode(network, z)))])


def _described(described: Described, s: Value, missing: Value) -> Value:
    """In double precision: what hardly moves within windows would otherwise be rounding errors."""
    signals, length = described.signals, described.samples
    judged, (_, movements) = len(described.judged), described.still.shape
    cells = s.op("Reshape", [-1, signals, length])
    samples = cells.op("Gather", described.judged, axis=1)
    one_by_one = samples.op("Reshape", [-1, length])
    coefficients = one_by_one @ described.basis
    low = min(LOW, length)
    shape = coefficients.split([low, described.basis.shape[1] - low])[0]
    raw = [shape.op("Reshape", [-1, judged * low])]
    if movements:
        bands = movements - PEAKS
        energies = ((coefficients * coefficients) @ described.bands).split([bands, described.bands.shape[1] - bands])[0]
        moved = [one_by_one @ described.departures, one_by_one @ described.steps]
        largest = [(part * part).op("ReduceMax", [1], keepdims=1) for part in moved]
        squares = concat([energies, *largest]).op("Reshape", [-1, judged, movements]) + described.still
        raw.append(squares.op("Sqrt").op("Sqrt").op("Reshape", [-1, judged * movements]))
    numbers = ((concat(raw) - described.center) / described.scale).op("Clip", -LIMIT, LIMIT)
    parts = [numbers, samples.op("Reshape", [-1, judged * length])]
    if len(described.states):
        states = cells.op("Gather", described.states, axis=1).op("Unsqueeze", [3])
        distance = (states - described.values).op("Abs").op("ReduceMin", [3], keepdims=0)
        there = missing.op("Reshape", [-1, signals, length]).op("Gather", described.states, axis=1).op("Not")
        new = distance.op("Greater", described.width).op("And", there)
        parts.append(cast(new, TensorProto.DOUBLE).op("ReduceMean", [2], keepdims=0))
    return concat(parts)


def _memory(network: Reconstruction, cells: Cells) -> Value:
    u = _memory_features(network, cells)
    assert isinstance(network.memorised, Memory)  # noqa: S101 - fit has seen to it
    keys = network.memorised.keys
    nearest = min(NEIGHBOURS + 1, keys.shape[1])
    if u.single:  # differences of large squares are exact enough to find the nearest rows, not their distances
        nearest_rows = _nearest(u, keys, nearest)
        difference = u.op("Unsqueeze", [1]) - u.graph.value(network.memorised.rows, True).op("Gather", nearest_rows)
        square = (difference * difference).op("ReduceSum", [2], keepdims=0)
        squared = square * u.graph.value(keys[-2], True).op("Gather", nearest_rows)
    else:
        squared = _weighted_distances(u, keys)
    distances = _smallest(squared, nearest)[0].op("Max", 0.0).op("Sqrt")
    passed = min(1, nearest - 1)
    return distances.split([passed, nearest - passed])[-1].op("ReduceMean", [1], keepdims=1)


# The views, each of shape (n, 1)


def _view(name: str) -> Callable[[Reconstruction, Cells], Value]:
    def score(network: Reconstruction, cells: Cells) -> Value:
        u = _memory_features(network, cells)
        views = network.memorised
        assert isinstance(views, Views)  # noqa: S101 - fit has seen to it
        number = views.names.index(name)
        slope, start = views.lines[number].tolist()
        if not slope:
            return (u * 0.0).sum() + start
        if name == "residual":
            raw = _residual_distance(network, cells)
        elif isinstance(views, WindowViews):
            raw = _of_windows(views, u, name)
        elif name == "linear" and network.unbends:
            raw = working(_of_observed(cells, views.mean, views.whitening))
        else:
            raw = _DISTANCES[name](views, u)
        return raw.op("Max", float(views.least[number])) * slope + start

    return score


def _novelty(network: Reconstruction, cells: Cells) -> Value:
    stored = network.memorised
    assert isinstance(stored, Views)  # noqa: S101 - fit has seen to it
    views = {stored.names[number]: _view(stored.names[number])(network, cells) for number in stored.switched_on}
    first, *others = views.values()
    if network.unbends:
        crowd, *linear = others
        together = [((first + line) * 0.5).op("Max", (first + crowd + line) / 3.0) for line in linear]
        return first.op("Max", crowd - SURER, *together)
    if not isinstance(stored, WindowViews):
        return first.op("Max", *others)
    if "residual" in views:
        views["residual"] = (first + views["residual"]) * 0.5
    nats = concat([*views.values()])
    highest = nats.op("ReduceMax", [1], keepdims=1)
    return (nats - highest).op("Exp").op("ReduceMean", [1], keepdims=1).op("Log") + highest


def _residual_distance(network: Reconstruction, cells: Cells) -> Value:
    assert network.described is not None  # noqa: S101 - only windows have this view
    missed = residual(network.likelihood, cells, decode(network, _imputed(network, cells)[1]))
    judged = missed.op("Reshape", [-1, *network.input_shape]).op("Gather", network.described.judged, axis=1)
    squared = (judged * judged).op("Reshape", [-1, len(network.described.judged) * network.input_shape[1]])
    return squared.sum().op("Sqrt")


def _of_windows(views: WindowViews, u: Value, name: str) -> Value:
    columns = views.columns
    sizes = [columns.near, columns.crowd - columns.near, columns.signals * columns.samples]
    near, movements, samples, *new = u.split([*sizes, columns.states] if columns.states else sizes)
    if name == "states":
        return working(new[0].op("ReduceMax", [1], keepdims=1).op("Greater", 0.0))
    if name == "short":
        each, length = columns.signals, views.segments.shape[1] // columns.signals
        # All signals of a time lie side by side, so that whole runs are copied, not single samples.
        times = samples.op("Reshape", [-1, each, columns.samples]).op("Transpose", perm=[0, 2, 1])
        segments = times.op("Gather", views.segments[:, :length], axis=1).op("Reshape", [-1, length * each])
        mean, whitening = (
            part.unflatten(0, (each, length)).transpose(0, 1).flatten(0, 1)
            for part in (views.short_mean, views.short_whitening)
        )
        distance = _ellipsoid(segments, mean, whitening)
        return distance.op("Reshape", [-1, len(views.segments)]).op("ReduceMax", [1], keepdims=1)
    if name == "wave":
        return _wave(views, samples)
    return _DISTANCES[name](views, {"near": near, "crowd": concat([near, movements]), "linear": samples}[name])


def _wave(views: WindowViews, samples: Value) -> Value:
    cells = samples.op("Reshape", [-1, views.columns.signals, views.columns.samples])
    waves = (cells - cells.op("ReduceMean", [2], keepdims=1)).op("Reshape", [-1, views.waves.shape[1]])
    nearest_rows = _nearest(waves, views.wave_keys, 1)
    difference = waves.op("Unsqueeze", [1]) - waves.graph.value(views.waves, waves.single).op("Gather", nearest_rows)
    square = (difference * difference).op("ReduceSum", [2], keepdims=0)
    return square.op("ReduceMin", [1], keepdims=1).op("Sqrt")


def _near(views: Views, u: Value) -> Value:
    nearest_rows = _nearest(u - views.center, views.keys, views.neighbours)
    difference = u.op("Unsqueeze", [1]) - u.graph.value(views.rows, u.single).op("Gather", nearest_rows)
    weight = u.graph.value(views.weight, u.single).op("Gather", nearest_rows)
    squared = (difference * difference).op("ReduceSum", [2], keepdims=0) * weight
    smallest, columns = _smallest(squared, views.neighbours)
    last = smallest.split([views.neighbours - 1, 1])[-1] if views.neighbours > 1 else smallest
    width = smallest.op("ReduceMean", [1], keepdims=1) * BANDWIDTH + LEAST**2
    share = ((squared / width).op("Neg").op("Exp") - (last / width).op("Neg").op("Exp")).op("Max", 0.0)
    candidates = _candidates(u, views.keys, views.neighbours)
    if candidates > views.neighbours:  # those that tie with the last do not count
        hot = columns.op("OneHot", [candidates], Tensor([0.0, LEAST]).double())
        share = share + hot.op("ReduceSum", [1], keepdims=0)
    else:
        share = share + LEAST
    share = share / share.sum()
    missed = (difference * share.op("Unsqueeze", [2])).op("ReduceSum", [1], keepdims=0)
    missed = (missed * missed).sum().op("Sqrt") * (share * weight.op("Sqrt")).sum()
    counted = min(COUNTED, views.neighbours)
    smallest = smallest.split([counted, views.neighbours - counted])[0] if views.neighbours > counted else smallest
    distances = smallest.op("Sqrt")
    nearer = distances + distances.op("ReduceMean", [1], keepdims=1) * NEARER
    return (missed * nearer.op("Log").op("ReduceMean", [1], keepdims=1).op("Exp")).op("Sqrt")


def _crowd(views: Views, u: Value) -> Value:
    nearest = _smallest(_weighted_distances(u - views.crowd_center, views.crowd_keys), views.near_crowd)[1]
    last = nearest.split([views.near_crowd - 1, 1])[-1] if views.near_crowd > 1 else nearest
    difference = u - u.graph.value(views.crowd, u.single).op("Gather", last.op("Squeeze", [1]))
    return (difference * difference).sum().op("Sqrt")


def _linear(views: Views, u: Value) -> Value:
    return _ellipsoid(u, views.mean, views.whitening)


def _ellipsoid(u: Value, mean: Tensor, whitening: Tensor) -> Value:
    white = (u - mean) @ whitening
    return (white * white).sum().op("Sqrt")


def _of_observed(cells: Cells, mean: Tensor, whitening: Tensor) -> Value:
    """The Mahalanobis distance of rows with missing cells, in double: it sees relations that are exact."""
    assert cells.precise is not None and cells.missing is not None  # noqa: S101, PT018 - unlike those of a code
    width, precision, missing = len(mean), precision_of(whitening), cast(cells.missing)

    def times_precision(rows: Value) -> Value:
        return (rows @ precision).split([width, precision.shape[1] - width])[0]

    def step(state: Value) -> tuple[Value, Value]:
        filled, direction, before = state.split([width, width, 1])
        product = times_precision(filled)
        gradient = product * missing
        squared = (gradient * gradient).sum()
        moves = squared.op("Greater", ((filled * product).sum() + 1.0) * least_gradient(whitening))
        direction = direction * (squared / before) - gradient
        length = moves.op("Where", squared / (direction * times_precision(direction)).sum(), 0.0)
        goes_on = cast(moves).op("ReduceMax", [0, 1], keepdims=0).op("Greater", 0.0)
        return concat([filled + direction * length, direction, moves.op("Where", squared, math.inf)]), goes_on

    centered = cells.missing.op("Where", 0.0, cells.precise - mean)
    start = concat([centered, centered * 0.0, missing.sum() * 0.0 + math.inf])
    most = missing.op("ReduceMax", [0, 1], keepdims=0).op("Max", 0.0) * float(STEPS)
    filled = centered.graph.loop(step, start, cast(most, TensorProto.INT64)).split([width, width + 1])[0]
    white = filled @ whitening
    lacking = (missing.sum().op("Neg") + float(width)).op("Sqrt").op("Neg") + math.sqrt(width)
    return (white * white).sum().op("Sqrt") + lacking


_DISTANCES: dict[str, Callable[[Views, Value], Value]] = {"near": _near, "crowd": _crowd, "linear": _linear}


def _weighted_distances(u: Value, keys: Tensor) -> Value:
    return concat([u, (u * u).sum()]).op("Gemm", keys[:-1], keys[-1])


def _nearest(u: Value, keys: Tensor, number: int) -> Value:
    """The columns of the ``number`` smallest distances of each row; in single precision, more than that.

    There, the nearest of each half of the stored rows are candidates, as rounding may mistake the order. Their
    distances are computed again from differences. Two short lists are also found faster than a long one.
    """
    half, found = keys.shape[1] // 2, _candidates(u, keys, number)
    if not u.single or found < 2 * number:
        return _smallest(_weighted_distances(u, keys), found)[1]
    first, second = (_smallest(_weighted_distances(u, part), number)[1] for part in (keys[:, :half], keys[:, half:]))
    return concat([first, second + half])


def _candidates(u: Value, keys: Tensor, number: int) -> int:
    """How many columns `_nearest` returns."""
    return min((2 if u.single else 1) * number, keys.shape[1])


def _smallest(values: Value, number: int) -> tuple[Value, Value]:
    """The smallest values of each row, in order, and their columns, each ``(n, number)``."""
    smallest, columns = values.graph.add("TopK", [values, [number]], outputs=2, axis=1, largest=0, sorted=1)
    return smallest, columns


SCORES: dict[str, Callable[[Any, Cells], Value]] = {
    "reconstruction": _reconstruction,
    "kl": _kl,
    "elbo": _elbo,
    "log_likelihood": _log_likelihood,
    "critic": _critic,
    "energy": _energy,
    "memory": _memory,
    **{name: _view(name) for name in VIEWS},
    "novelty": _novelty,
}
