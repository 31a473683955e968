"""Picture quality in pure torch: PSNR, SSIM, MS-SSIM, LPIPS. Tensors in, one number per picture out."""

from cvcodec.metrics.lpips import Lpips
from cvcodec.metrics.luma import luma
from cvcodec.metrics.psnr import mse, psnr, psnr_of_mse
from cvcodec.metrics.ssim import ms_ssim, ssim

__all__ = ["Lpips", "luma", "ms_ssim", "mse", "psnr", "psnr_of_mse", "ssim"]
