//! The id that a directory of segments has for life: 128 bits, as the name of an empty file in it.

use crate::unit::parse_hex;
use crate::world::entropy::Entropy;
use crate::world::fs::{Entry, FileSystem};
use std::io;
use std::path::Path;

/// Reads the text form: 32 lower-case hex digits.
pub fn parse(text: &str) -> Option<u128> {
    parse_hex(text, 32)
}

/// Draws an id for a directory that has none, and makes it durable before anybody is told. `extension` comes with its dot.
/// After an error the directory may have the file already: the next start finds it, and nobody was told of another.
pub fn draw(fs: &dyn FileSystem, dir: &Path, extension: &str, entropy: &dyn Entropy) -> io::Result<u128> {
    let id = entropy.bits_128();
    write(fs, dir, extension, id)?;
    Ok(id)
}

/// Makes the file whose name is the id.
pub fn write(fs: &dyn FileSystem, dir: &Path, extension: &str, id: u128) -> io::Result<()> {
    let file = fs.create_new(&dir.join(format!("{id:032x}{extension}")))?;
    file.sync_data()?;
    fs.sync_dir(dir)
}

/// An error where a directory is one of the other tier: it has an id with the extension `other`, and none with `own`. All
/// in it would be brought into the order of this tier.
pub fn refuse_other(entries: &[Entry], own: &str, other: &str) -> io::Result<()> {
    let has = |extension| entries.iter().any(|entry| entry.name.strip_suffix(extension).and_then(parse).is_some());
    if has(other) && !has(own) {
        let of = other.trim_start_matches('.');
        return Err(io::Error::other(format!("it is the directory of another tier, as the file *.{of} in it says")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::SystemEntropy;
    use crate::world::fs::memory::MemoryFs;

    #[test]
    fn an_id_that_was_drawn_is_found_again_in_the_name_of_its_file() {
        let (fs, dir) = (MemoryFs::default(), Path::new("/d"));
        fs.create_dir_all(dir).unwrap();
        let id = draw(&fs, dir, ".kind", &SystemEntropy).unwrap();
        let names: Vec<String> = fs.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].strip_suffix(".kind").and_then(parse), Some(id));
        assert_ne!(draw(&fs, dir, ".kind", &SystemEntropy).unwrap(), id);
    }

    #[test]
    fn only_32_lower_case_hex_digits_are_an_id() {
        assert_eq!(parse("0000000000000000000000000000000a"), Some(10));
        for text in ["", "a", "0000000000000000000000000000000A", "+000000000000000000000000000000a"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
