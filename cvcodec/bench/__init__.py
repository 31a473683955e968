"""Rate and distortion of cvcodec's models beside conventional encoders (`rd`, `cvcodec bench`); checks of a device.

    gpu_check    parity, windows, memory and speed on a CUDA or MPS device              (make gpu-check)

`harness` is what measuring programs share, those of `benchmarks/` in a checkout among them. `device_checks` and
`device_speed` are what gpu_check checks and times. Nothing here is imported by the codec.
"""
