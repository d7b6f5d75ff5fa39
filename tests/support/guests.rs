//! The components of `tests/guests`, built once by their script.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

/// The core module of a guest; the host encodes it.
pub fn core_module(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let root = crate::repository();
    BUILT.get_or_init(|| {
        let status = Command::new(root.join("tests/guests/build.sh")).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success(), "tests/guests/build.sh failed: {status}");
    });
    let path = root.join("target/guests").join(format!("{name}.wasm"));
    assert!(path.is_file(), "there is no guest `{name}`");
    path
}

/// A component of `tests/guests/odd`: what Rust cannot write.
pub fn odd(name: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let root = crate::repository();
    let component = wat::parse_file(root.join(format!("tests/guests/odd/{name}.wat"))).unwrap_or_else(|error| panic!("{error}"));
    let path = root.join(format!("target/guests/odd/{name}.wasm"));
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if std::fs::read(&path).ok().as_ref() != Some(&component) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, component).unwrap();
    }
    path
}

/// The settings a compiler needs to build Rust guests where rustup has no wasm target: what `tests/guests/build.sh --env` prints.
pub fn toolchain() -> Vec<(String, String)> {
    core_module("stock");
    let output = Command::new(crate::repository().join("tests/guests/build.sh")).arg("--env").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// The guest `stock`, so large that compiling it is put off; another component for every number.
pub fn large_stock(number: u32) -> Vec<u8> {
    let mut module = std::fs::read(core_module("stock")).unwrap();
    // A custom section: its name, and what nobody looks at.
    let mut padding = vec![0; 3 << 20];
    padding[..4].copy_from_slice(&number.to_le_bytes());
    let content = [&[7][..], b"padding", &padding].concat();
    module.push(0);
    let mut size = content.len();
    while size >= 0x80 {
        module.push((size & 0x7f) as u8 | 0x80);
        size >>= 7;
    }
    module.push(size as u8);
    module.extend(content);
    module
}

/// The guest `version` with a text of its own: it answers `koksmat-version-` and the number. Its code is its own, too: one function differs.
pub fn version(number: u32) -> Vec<u8> {
    const TEXT: &[u8] = b"koksmat-version-00000000";
    /// The lowest 28 bits of `CODE`, as LEB128 has them, and what follows.
    const CODE: &[u8] = &[0x80, 0x80, 0x80, 0x80, 0xb6, 0xee, 0xda, 0xb7, 0xeb, 0x00];
    let mut module = std::fs::read(core_module("version")).unwrap();
    let find = |module: &[u8], what: &[u8]| {
        let mut places = module.windows(what.len()).enumerate().filter(|(_, window)| *window == what).map(|(at, _)| at);
        let at = places.next().expect("the guest has it");
        assert!(places.next().is_none(), "the guest has it once");
        at
    };
    let (text, code) = (find(&module, TEXT), find(&module, CODE));
    module[text..text + TEXT.len()].copy_from_slice(format!("koksmat-version-{number:08}").as_bytes());
    for (n, byte) in module[code..code + 4].iter_mut().enumerate() {
        *byte = 0x80 | (number >> (7 * n) & 0x7f) as u8;
    }
    module
}

/// The first of two thousand [`version`]s that no test compiled before: the cache is shared, and compiling is what is to be seen.
pub fn never_compiled() -> u32 {
    let second = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    u32::try_from(second % 40_000).unwrap() * 2_000 + 10_000
}
