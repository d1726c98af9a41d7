"""What Resize and Upsample meant before operator set 11, where they had no attribute for it:
asymmetric coordinates, x_in = x_out / scale, and the nearest neighbour by floor.

onnx's converter turns them into today's Resize without saying so, whose default is half_pixel.
Source: ONNX operator specification, Upsample-9, Resize-10.
"""

from onnxlip.rules import Amendment

AMENDMENTS = (
    Amendment(
        "Resize",
        before=11,
        attributes={"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
)
