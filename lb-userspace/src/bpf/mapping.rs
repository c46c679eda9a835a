//! Memory that the program reads while userspace writes it: an array map's values, mapped.

use std::io;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use bytemuck::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The values of a `BPF_F_MMAPABLE` array map (Linux 5.5), or plain memory that stands in for it in tests of plans.
///
/// Every access is volatile or atomic: the program may read, and another process may write, at any time.
#[derive(Debug)]
pub struct Mapping<T> {
    start: NonNull<T>,
    len: usize,
    bytes: NonZero<usize>,
}

// SAFETY: the mapping is owned, and all access to it goes through volatile or atomic operations on `Pod` values.
unsafe impl<T: Send> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapping<T> {}

impl<T: Pod> Mapping<T> {
    /// Maps the `len` values of an array map.
    ///
    /// # Errors
    /// The kernel's, if the map is not mappable or shorter.
    pub fn of_map(map: impl AsFd, len: u32) -> io::Result<Self> {
        let bytes = Self::size(len)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )?
        };
        Ok(Self {
            start: start.cast(),
            len: len as usize,
            bytes,
        })
    }

    /// Zeroed memory of this process alone.
    ///
    /// # Errors
    /// The kernel's, if there is not enough memory.
    pub fn private(len: u32) -> io::Result<Self> {
        let bytes = Self::size(len)?;
        // SAFETY: as in `of_map`.
        let start = unsafe {
            mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )?
        };
        Ok(Self {
            start: start.cast(),
            len: len as usize,
            bytes,
        })
    }

    fn size(len: u32) -> io::Result<NonZero<usize>> {
        // The kernel rounds every value up to 8 bytes, and these types are all multiples of it: values lie side by side.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        (len as usize)
            .checked_mul(size_of::<T>())
            .and_then(NonZero::new)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("a table of {len} entries")))
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none; there always is one.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at `index`. Another writer's half-written value is possible, a torn field of up to 8 bytes is not.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: within the mapping, aligned, and any bytes are a `T`.
        unsafe { self.start.as_ptr().add(index).read_volatile() }
    }

    /// Replaces the value at `index`, field by field: only where no reader looks, or where it does not matter.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write(&self, index: usize, value: T) {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: within the mapping and aligned.
        unsafe { self.start.as_ptr().add(index).write_volatile(value) }
    }

    /// A pointer to the value at `index`, for the atomic store of one field.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn pointer(&self, index: usize) -> *mut T {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: within the mapping.
        unsafe { self.start.as_ptr().add(index) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping, of which no pointer outlives it by contract of `pointer`.
        let unmapped = unsafe { munmap(self.start.cast(), self.bytes.get()) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}
