"""Measurements of cvcodec on the machine it runs on. Each is a program: `python -m cvcodec.bench.NAME --help`.

    speed        Mpixel/s of encode and decode: model call and whole command            (make bench)
    memory       peak memory of the commands for clips of different length
    borders      PSNR of frames at window borders, against their neighbours and against the clip in one window
    floors       PSNR, SSIM, LPIPS and bits of our models against a PCA of patches, and by a frame's position
    compatibility   PSNR of a 2D decoder on a video model's latents, and of the video decoder on 2D latents
    grid         frames of a clip as it is, by PCA and by our models, as a picture      (make grid)
    payload      bytes of the coded symbols, against zstd -19 and order-0 entropy on the same symbols
    reader       slices a second that training loops get, against torch.save, safetensors and WebDataset
    gpu_check    parity, windows, memory and speed on a CUDA or MPS device              (make gpu-check)

`harness` holds what they share, `device_checks` and `device_speed` what gpu_check checks and times. Nothing here is
imported by the codec.
"""
