"""The local stack: a real Kafka and Redis without Docker or root, our workers and rankers, one endpoints file."""

from infra.stack.layout import Layout
from infra.stack.progress import Progress, Silent, Step
from infra.stack.stack import PARTS, Part, Stack, Status, parse_parts

__all__ = ["PARTS", "Layout", "Part", "Progress", "Silent", "Stack", "Status", "Step", "parse_parts"]
