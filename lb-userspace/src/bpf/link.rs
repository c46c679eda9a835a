//! Linking: the object's undefined symbols get their values before aya loads it.
//!
//! The program takes the addresses of symbols that it does not define: where a table begins, how long it is, the words of
//! the hash key. Each is one instruction (`ld_imm64`) with a relocation. aya leaves relocations of undefined symbols alone, so what is
//! written into the instruction here is what the kernel gets: a constant, or a map's descriptor, of which the kernel makes
//! the address of the map or of its value.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind};
use thiserror::Error;

/// What a symbol stands for.
#[derive(Clone, Copy, Debug)]
pub enum Value<'fd> {
    /// A number.
    Constant(u64),
    /// The map itself, for helpers.
    Map(BorrowedFd<'fd>),
    /// The first byte of the map's only value.
    Start(BorrowedFd<'fd>),
}

/// Why an object cannot be linked.
#[derive(Debug, Error)]
pub enum LinkError {
    /// It is not an ELF file.
    #[error("the object file cannot be read: {0}")]
    Object(#[from] object::Error),
    /// A symbol is neither defined nor given.
    #[error(
        "the object file needs the symbol `{0}`, which this version does not know: build again with `cargo xtask build`"
    )]
    Unknown(String),
    /// A relocation does not stand where an instruction is.
    #[error("the object file's relocation of `{0}` is not one of a 64-bit load")]
    Place(String),
}

/// `ld_imm64`: 16 bytes, the constant's halves at 4 and at 12. With a source register other than 0 it is not a constant.
const LD_IMM64: u8 = 0x18;
/// The low half is a map's descriptor (`BPF_PSEUDO_MAP_FD`).
const MAP: u8 = 1;
/// The same, and the high half an offset into its only value (`BPF_PSEUDO_MAP_VALUE`, Linux 5.2).
const MAP_VALUE: u8 = 2;

/// The object with the values of its undefined symbols in place.
///
/// # Errors
/// If a symbol's value is not given.
pub fn link(elf: &[u8], values: &[(&str, Value<'_>)]) -> Result<Vec<u8>, LinkError> {
    let file = object::File::parse(elf)?;
    let mut linked = elf.to_vec();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let Some((start, _)) = section.file_range() else {
            continue;
        };
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file.symbol_by_index(index)?;
            if !symbol.is_undefined() {
                continue;
            }
            let name = symbol.name()?;
            let value = values.iter().find(|(known, _)| *known == name);
            let (_, value) = value.ok_or_else(|| LinkError::Unknown(name.to_owned()))?;
            let at = (start + offset) as usize;
            let instruction = linked.get_mut(at..at + 16).filter(|bytes| bytes[0] == LD_IMM64);
            write(instruction.ok_or_else(|| LinkError::Place(name.to_owned()))?, *value);
        }
    }
    Ok(linked)
}

fn write(instruction: &mut [u8], value: Value<'_>) {
    // What the compiler adds to the symbol's address.
    let addend = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
    let (kind, low, high) = match value {
        Value::Constant(number) => {
            let number = number.wrapping_add_signed(addend.into());
            (0, number as u32, (number >> 32) as u32)
        }
        Value::Map(fd) => (MAP, fd.as_raw_fd() as u32, 0),
        Value::Start(fd) => (MAP_VALUE, fd.as_raw_fd() as u32, addend as u32),
    };
    instruction[1] = instruction[1] & 0x0F | kind << 4;
    instruction[4..8].copy_from_slice(&low.to_le_bytes());
    instruction[12..16].copy_from_slice(&high.to_le_bytes());
}
