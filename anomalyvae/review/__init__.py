"""Flag, look, decide: what a person sees of a model's findings."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.review.flagging import flag_folder
    from anomalyvae.review.gate import judge
    from anomalyvae.review.promotion import promote
    from anomalyvae.review.queue import Queue
    from anomalyvae.review.retraining import retrain
    from anomalyvae.review.server import serve

__all__ = ["Queue", "flag_folder", "judge", "promote", "retrain", "serve"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Queue": "anomalyvae.review.queue",
        "flag_folder": "anomalyvae.review.flagging",
        "judge": "anomalyvae.review.gate",
        "promote": "anomalyvae.review.promotion",
        "retrain": "anomalyvae.review.retraining",
        "serve": "anomalyvae.review.server",
    },
)
