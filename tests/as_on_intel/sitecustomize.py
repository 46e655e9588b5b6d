"""On PYTHONPATH, this lets OpenVINO's plugin offer its CPU device on a processor of another maker.

The plugin asks ONNX Runtime who made the processor and takes Intel's alone, though OpenVINO runs on others.
The answer is the second field of ONNX Runtime's `OrtHardwareDevice`, to which the Python object points.
"""

import ctypes

import onnxruntime

_INTEL = 0x8086
_AFTER_THE_OBJECT_HEAD = 16

for _found in onnxruntime.get_ep_devices():
    _pointer = ctypes.c_void_p.from_address(id(_found.device) + _AFTER_THE_OBJECT_HEAD).value
    _fields = (ctypes.c_uint32 * 2).from_address(_pointer or 0)
    if _fields[1] != _found.device.vendor_id:
        raise SystemExit("this onnxruntime keeps the processor's maker elsewhere")
    _fields[1] = _INTEL
