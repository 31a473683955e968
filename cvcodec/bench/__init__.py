"""Measurements of cvcodec on the machine it runs on. Each is a program: `python -m cvcodec.bench.NAME --help`.

    speed        Mpixel/s of encode and decode: model call and whole command            (make bench)
    memory       peak memory of the commands for clips of different length
    borders      PSNR of frames at window borders, against their neighbours and against the clip in one window
    reader       slices a second that training loops get, against torch.save, safetensors and WebDataset
    gpu_check    parity, windows, memory and speed on a CUDA or MPS device              (make gpu-check)

`harness` holds what they share, `device_checks` what gpu_check checks. Nothing here is imported by the codec.
"""
