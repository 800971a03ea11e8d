"""Detectors: what honest updates look like, learned from honest ones only."""

from aegis_server.review.detection.detector import Detector as Detector
from aegis_server.review.detection.detector import Suspicion as Suspicion
from aegis_server.review.detection.detector import builtin as builtin
from aegis_server.review.detection.files import DetectorInvalid as DetectorInvalid
from aegis_server.review.detection.training import Recorded as Recorded
from aegis_server.review.detection.training import TooFewRows as TooFewRows
from aegis_server.review.detection.training import train as train
