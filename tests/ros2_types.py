"""Stand-ins for the Python classes of ROS 2 messages, made of their definitions; as strict about types as those are."""

import sys
from types import ModuleType

from perception.logs.ros_types import known_types

_PLAIN = {"string": str, "bool": bool, "octet": bytes, "byte": bytes, "float32": float, "float64": float}


def installed(monkeypatch, definitions) -> None:
    """``from PACKAGE.msg import TYPE`` works for the types of ROS 2 and those defined."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in definitions.items():
        if name not in known_types().fielddefs:
            store.register(get_types_from_msg(text, name))
    made: dict[str, type] = {}
    for name in store.fielddefs:
        package, _, short = name.split("/")
        modules = [sys.modules.get(each) for each in (package, f"{package}.msg")]
        if not all(isinstance(module, _Module) for module in modules):
            for each in (package, f"{package}.msg"):
                monkeypatch.setitem(sys.modules, each, _Module(each))
        setattr(sys.modules[f"{package}.msg"], short, _class_of(name, store, made))


class _Module(ModuleType):
    pass


def _class_of(name: str, store, made: dict[str, type]) -> type:
    from rosbags.interfaces import Nodetype

    if name in made:
        return made[name]
    kinds = {}
    for field, (node, inner) in store.fielddefs[name][1]:
        if node == Nodetype.NAME:
            kinds[field] = _class_of(inner, store, made)
        elif node == Nodetype.BASE:
            kinds[field] = _PLAIN.get(inner[0], int)
        else:
            kinds[field] = None  # an array

    def __init__(self, **given):
        for field, kind in kinds.items():
            default = [] if kind is None else b"\0" if kind is bytes else kind()
            object.__setattr__(self, field, default)
        for field, value in given.items():
            setattr(self, field, value)

    def __setattr__(self, field, value):
        if field not in kinds:
            raise AttributeError(f"{name} has no field {field}")
        if kinds[field] is not None and not isinstance(value, kinds[field]):
            raise AssertionError(f"{name}.{field}: {kinds[field].__name__} was expected, found {value!r}")
        object.__setattr__(self, field, value)

    made[name] = type(name.rpartition("/")[2], (), {"__init__": __init__, "__setattr__": __setattr__})
    return made[name]
