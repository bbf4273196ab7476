"""The monitor process: reads what the gateway observed, watches, and moves models through their states.

A process of its own: it imports numpy models and spawns trainers, and may be killed at any time. It holds no power: a
move is a wish that the gateway records and carries out. Fails open: without a monitor calls go on as they are.
"""

from controlplane.monitor.client import Client, HttpClient, Page
from controlplane.monitor.monitor import Monitor
from controlplane.monitor.process import monitor_command, monitor_of, serve
from controlplane.monitor.settings import MonitorSettings, WatchedModel

__all__ = [
    "Client",
    "HttpClient",
    "Monitor",
    "MonitorSettings",
    "Page",
    "WatchedModel",
    "monitor_command",
    "monitor_of",
    "serve",
]
