"""Who tells the node what to do, and reads its diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

_PATIENCE_S = 240.0  # for one answer
_SETTLE_S = 2.0  # until both sides know of each other
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4, "shutdown": 5}  # lifecycle_msgs/Transition
SHUTDOWNS = {"unconfigured": 5, "inactive": 6, "active": 7}


class Operator:
    """statuses: name -> (level, message, values), of the last diagnostics."""

    def __init__(self, node_name: str):
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from lifecycle_msgs.srv import ChangeState, GetState
        from rcl_interfaces.srv import SetParameters

        rclpy.init()
        self._rclpy, self._node = rclpy, rclpy.create_node("operator")
        self.statuses: dict[str, tuple[int, str, dict[str, str]]] = {}
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        services = {"change_state": ChangeState, "get_state": GetState, "set_parameters": SetParameters}
        self._clients = {
            name: self._node.create_client(service, f"/{node_name}/{name}") for name, service in services.items()
        }
        for client in self._clients.values():
            if not client.wait_for_service(timeout_sec=_PATIENCE_S):
                raise TimeoutError(f"{client.srv_name}: a service was expected, found none")

    def change(self, transition: str) -> tuple[bool, str]:
        """Whether it went well, and the state after it."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = SHUTDOWNS[self.state()] if transition == "shutdown" else TRANSITIONS[transition]
        success = self._ask("change_state", request).success
        return success, "finalized" if transition == "shutdown" and success else self.state()

    def state(self) -> str:
        from lifecycle_msgs.srv import GetState

        return self._ask("get_state", GetState.Request()).current_state.label

    def set(self, name: str, value: Any) -> tuple[bool, str]:
        """Whether the parameter was taken, and why not."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self._ask("set_parameters", request).results[0]
        return result.successful, result.reason

    def see(self, holds: Callable[[dict], bool], seconds: float) -> bool:
        """Whether diagnostics come for which that holds."""
        self.statuses = {}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._rclpy.spin_once(self._node, timeout_sec=0.2)
            if self.statuses and holds(self.statuses):
                return True
        return False

    def is_heard(self, topics: Collection[str]) -> bool:
        """Waits until somebody listens to each."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            self._rclpy.spin_once(self._node, timeout_sec=0.2)
            if all(self._node.count_subscribers(topic) for topic in topics):
                time.sleep(_SETTLE_S)
                return True
        return False

    def close(self) -> None:
        self._node.destroy_node()
        self._rclpy.shutdown()

    def _hear(self, message: Any) -> None:
        self.statuses = {
            each.name.partition(": ")[2]: (each.level[0], each.message, {v.key: v.value for v in each.values})
            for each in message.status
        }

    def _ask(self, service: str, request: Any) -> Any:
        future = self._clients[service].call_async(request)
        self._rclpy.spin_until_future_complete(self._node, future, timeout_sec=_PATIENCE_S)
        if future.result() is None:
            raise TimeoutError(f"{service}: an answer was expected, found none within {_PATIENCE_S:.0f} s")
        return future.result()
