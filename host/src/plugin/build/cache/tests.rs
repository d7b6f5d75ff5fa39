use super::*;

fn open(folder: &tempfile::TempDir) -> Cache {
    Cache::open(folder.path()).unwrap()
}

fn engine() -> Engine {
    Engine::default()
}

/// The smallest component.
fn component() -> Vec<u8> {
    wasm_encoder::Component::new().finish()
}

fn compile(cache: &Cache, engine: &Engine) -> Component {
    cache.compile(engine, "digest", Instant::now(), || Ok(component())).unwrap()
}

/// The one file with this extension.
fn file(folder: &tempfile::TempDir, extension: &str) -> PathBuf {
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.extension().is_some_and(|found| found == extension)).unwrap()
}

fn flip_last_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_compiled_is_not_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine();
    compile(&open(&folder), &engine);
    let asked =
        open(&folder).compile(&engine, "digest", Instant::now(), || -> Result<Vec<u8>, BuildError> { panic!("it is in the cache") });
    asked.unwrap();
    assert!(open(&folder).is_compiled(&engine, "digest"));
    assert!(!open(&folder).is_compiled(&engine, "other"));
}

#[test]
fn a_changed_file_is_never_loaded_but_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, engine) = (open(&folder), engine());
    compile(&cache, &engine);
    let key = compiled_key(&engine, "digest");
    for damaged in [file(&folder, "cwasm"), mac_path(&file(&folder, "cwasm"))] {
        assert!(cache.load(&engine, &key).is_some());
        flip_last_byte(&damaged);
        assert!(cache.load(&engine, &key).is_none(), "{}", damaged.display());
        compile(&cache, &engine);
    }
    fs::remove_file(mac_path(&file(&folder, "cwasm"))).unwrap();
    assert!(cache.load(&engine, &key).is_none(), "without a MAC");
}

#[test]
fn a_file_that_another_host_wrote_is_not_loaded() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = engine();
    compile(&open(&theirs), &engine);
    let cache = open(&ours);
    for path in [file(&theirs, "cwasm"), mac_path(&file(&theirs, "cwasm"))] {
        fs::copy(&path, ours.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(cache.load(&engine, &compiled_key(&engine, "digest")).is_none());
}

#[test]
fn a_file_does_not_pass_for_one_of_another_name_or_kind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    cache.keep_component("one", b"component");
    let kept = file(&folder, "wasm");
    let other = cache.path(Kind::Component, &key_of(&[b"two"]));
    let compiled = kept.with_extension("cwasm");
    for (from, to) in [(&kept, &other), (&kept, &compiled)] {
        fs::copy(from, to).unwrap();
        fs::copy(mac_path(from), mac_path(to)).unwrap();
    }
    assert_eq!(cache.component("one").as_deref(), Some(b"component".as_slice()));
    assert_eq!(cache.component("two"), None);
    assert_eq!(cache.read(Kind::Compiled, &key_of(&[b"one"])), None);
}

#[test]
fn engines_with_other_settings_do_not_share_code() {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    assert_ne!(compiled_key(&engine(), "digest"), compiled_key(&Engine::new(&config).unwrap(), "digest"));
    assert_eq!(compiled_key(&engine(), "digest"), compiled_key(&engine(), "digest"));
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut cache = open(&folder);
    let set_age = |cache: &Cache, name: &str, seconds| {
        let time = SystemTime::now() - std::time::Duration::from_secs(seconds);
        File::open(cache.path(Kind::Component, &key_of(&[name.as_bytes()]))).unwrap().set_modified(time).unwrap();
    };
    for (name, age) in [("old", 300), ("older", 400), ("used", 500)] {
        cache.keep_component(name, &[0; 1000]);
        set_age(&cache, name, age);
    }
    assert!(cache.component("used").is_some());
    cache.max_size = 3500;
    cache.keep_component("new", &[0; 1000]);
    let there: Vec<_> = ["old", "older", "used", "new"].into_iter().filter(|name| cache.component(name).is_some()).collect();
    assert_eq!(there, ["old", "used", "new"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3 * 2 + 1, "each with its MAC, and the key");
}

#[cfg(unix)]
#[test]
fn the_folder_and_the_key_are_ours_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("data/cache");
    fs::create_dir_all(&inside).unwrap();
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o777)).unwrap();
    Cache::open(&inside).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inside), 0o700);
    assert_eq!(mode(&inside.join("key")), 0o600);
}

#[test]
fn a_damaged_key_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("key"), "short").unwrap();
    assert!(Cache::open(folder.path()).err().unwrap().to_string().contains("delete it"));
}
