//! The error numbers that have a meaning here, for [`std::io::Error::raw_os_error`].

pub use libc::{
    EACCES, EAGAIN, EBADF, EBUSY, ECANCELED, EDQUOT, EFBIG, EINTR, EINVAL, EIO, ENODEV, ENOENT,
    ENOMEDIUM, ENOMEM, ENOSPC, ENOTDIR, ENXIO, EOPNOTSUPP, EPERM, EROFS,
};
