//! The layer between SQLite and the operating system's files: everything goes through to SQLite's own, and what changes a file in a folder
//! that is watched is written down.
//!
//! SQLite calls it as a C library calls a plugin; that is what is unsafe here. It becomes SQLite's default in this process, so that code that
//! knows nothing of it (the store) is watched too; files elsewhere are not even wrapped.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::size_of,
    path::Path,
    ptr::{null, null_mut},
    sync::{Arc, Mutex, OnceLock},
};

use rusqlite::{auto_extension, ffi};

use super::{Change, Disk, Syncs};

static WATCHED: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());
/// SQLite's own layer.
static SYSTEM: OnceLock<System> = OnceLock::new();

/// Watch the files in the folder of this disk.
pub(super) fn watch(disk: Arc<Disk>) {
    SYSTEM.get_or_init(register);
    WATCHED.lock().unwrap().push(disk);
}

/// Watch them no longer.
pub(super) fn leave(disk: &Disk) {
    WATCHED.lock().unwrap().retain(|watched| !std::ptr::eq(&**watched, disk));
}

/// The disk that the file of this name is on, and its name there.
fn watched(path: &Path) -> Option<(Arc<Disk>, &str)> {
    let disk = WATCHED.lock().unwrap().iter().find(|disk| path.parent() == Some(&disk.folder))?.clone();
    Some((disk, path.file_name()?.to_str()?))
}

struct System(*mut ffi::sqlite3_vfs);

// SAFETY: it is SQLite's own static object, which is never changed after it was registered and which SQLite itself uses from every thread.
unsafe impl Send for System {}
// SAFETY: as above.
unsafe impl Sync for System {}

fn system() -> *mut ffi::sqlite3_vfs {
    SYSTEM.get().expect("watching begins with it").0
}

fn register() -> System {
    // SAFETY: the default layer lives for ever. Its copy does too; what is not replaced in it works on the copy, since it uses of it only
    // what was copied. The name is a literal.
    unsafe {
        let system = ffi::sqlite3_vfs_find(null());
        let layer = Box::leak(Box::new(*system));
        layer.zName = c"koksmat-disk".as_ptr();
        layer.pNext = null_mut();
        layer.szOsFile += size_of::<File>() as c_int;
        layer.xOpen = Some(open);
        layer.xDelete = Some(delete);
        assert_eq!(ffi::sqlite3_vfs_register(layer, 1), ffi::SQLITE_OK);
        auto_extension::register_auto_extension(opened).unwrap();
        System(system)
    }
}

/// A file that is watched, as SQLite holds it. The system's own follows it in the same memory.
#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    watch: *mut Watch,
}

/// What is known of it.
struct Watch {
    disk: Arc<Disk>,
    file: usize,
    /// The system's layer syncs the folder with the first sync of a new journal or log, for the sake of its entry.
    syncs_folder: bool,
}

/// The system's own file behind one of ours, and its methods.
///
/// # Safety
/// `file` was opened by [`open`] with success, and not closed yet.
unsafe fn behind<'a>(file: *mut ffi::sqlite3_file) -> (*mut ffi::sqlite3_file, &'a ffi::sqlite3_io_methods) {
    // SAFETY: SQLite gave `open` as much memory as both need, and the system's layer has put its methods there.
    unsafe {
        let behind = file.cast::<File>().add(1).cast::<ffi::sqlite3_file>();
        (behind, &*(*behind).pMethods)
    }
}

/// # Safety
/// As [`behind`].
unsafe fn watch_of<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Watch {
    // SAFETY: `open` has put it there, and SQLite uses a file from one thread at a time.
    unsafe { &mut *(*file.cast::<File>()).watch }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let system = system();
    // SAFETY: SQLite's names end with a zero and are valid during the call; a temporary file has none. `file` has room for the system's file
    // behind ours; without ours the system's is at the front, as SQLite expects it.
    unsafe {
        let open = (*system).xOpen.unwrap();
        let path = (!name.is_null()).then(|| CStr::from_ptr(name).to_str().unwrap());
        let Some((disk, name_there)) = path.map(Path::new).and_then(watched) else { return open(system, name, file, flags, out) };
        let ours = file.cast::<File>();
        let number = {
            let mut log = disk.log();
            let code = open(system, name, ours.add(1).cast(), flags, out);
            if code != ffi::SQLITE_OK {
                (*ours).methods = null();
                return code;
            }
            log.open(name_there)
        };
        const NEW_JOURNALS: c_int = ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_WAL;
        let syncs_folder = flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & NEW_JOURNALS != 0;
        *ours = File { methods: &METHODS, watch: Box::into_raw(Box::new(Watch { disk, file: number, syncs_folder })) };
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, folder: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let delete = (*system()).xDelete.unwrap();
        let Some((disk, name_there)) = watched(Path::new(CStr::from_ptr(name).to_str().unwrap())) else {
            return delete(system(), name, folder);
        };
        let mut log = disk.log();
        let code = delete(system(), name, folder);
        if code == ffi::SQLITE_OK {
            log.remove(name_there, folder != 0);
        }
        code
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: this is the last call for this file, and `watch` came from a box.
    unsafe {
        let (behind, methods) = behind(file);
        let code = methods.xClose.unwrap()(behind);
        drop(Box::from_raw((*file.cast::<File>()).watch));
        (*file.cast::<File>()).methods = null();
        code
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, data: *const c_void, length: c_int, offset: ffi::sqlite3_int64) -> c_int {
    // SAFETY: `data` is `length` bytes, as SQLite says.
    unsafe {
        let (behind, methods) = behind(file);
        let data_there = std::slice::from_raw_parts(data.cast::<u8>(), length as usize).to_vec();
        let change = |file| Change::Written { file, offset: offset as usize, data: data_there };
        watch_of(file).note(change, || methods.xWrite.unwrap()(behind, data, length, offset))
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: as SQLite calls it.
    unsafe {
        let (behind, methods) = behind(file);
        let change = |file| Change::Truncated { file, size: size as usize };
        watch_of(file).note(change, || methods.xTruncate.unwrap()(behind, size))
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as SQLite calls it.
    unsafe {
        let (behind, methods) = behind(file);
        let watch = watch_of(file);
        let code = watch.note(|file| Change::Synced { file }, || methods.xSync.unwrap()(behind, flags));
        if code == ffi::SQLITE_OK && std::mem::take(&mut watch.syncs_folder) {
            watch.disk.log().changes.push(Change::FolderSynced);
        }
        code
    }
}

impl Watch {
    /// Do it, and write it down if it was done: nothing else happens on this disk in between.
    fn note(&self, change: impl FnOnce(usize) -> Change, make: impl FnOnce() -> c_int) -> c_int {
        let mut log = self.disk.log();
        let code = make();
        if code == ffi::SQLITE_OK {
            log.changes.push(change(self.file));
        }
        code
    }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: a pragma comes as an array of three texts: the answer, the name, and the value or null.
    unsafe {
        if operation == ffi::SQLITE_FCNTL_PRAGMA && watch_of(file).disk.syncs == Syncs::Never {
            let [_, name, value] = *argument.cast::<[*mut c_char; 3]>();
            let is = |text: *mut c_char, word: &str| CStr::from_ptr(text).to_bytes().eq_ignore_ascii_case(word.as_bytes());
            if is(name, "synchronous") && !value.is_null() && !is(value, "OFF") {
                // Done, says this, and SQLite does nothing.
                return ffi::SQLITE_OK;
            }
        }
        let (behind, methods) = behind(file);
        methods.xFileControl.unwrap()(behind, operation, argument)
    }
}

/// A connection was opened.
unsafe extern "C" fn opened(connection: *mut ffi::sqlite3, error: *mut *mut c_char, _: *const ffi::sqlite3_api_routines) -> c_int {
    // SAFETY: SQLite calls it with a connection that it has just opened; it opens no other and closes none.
    unsafe {
        auto_extension::init_auto_extension(connection, error, |connection| {
            let never = connection.path().map(Path::new).and_then(watched).is_some_and(|(disk, _)| disk.syncs == Syncs::Never);
            if never { connection.pragma_update(None, "synchronous", "OFF") } else { Ok(()) }
        })
    }
}

/// Methods that change no file go straight to the system's.
macro_rules! through {
    ($($name:ident: $method:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($argument: $type),*) $(-> $answer)? {
            // SAFETY: SQLite calls it with a file that is open, and what it gives is for the system's method.
            unsafe {
                let (behind, methods) = behind(file);
                methods.$method.unwrap()(behind, $($argument),*)
            }
        }
    )*};
}

through! {
    read: xRead(data: *mut c_void, length: c_int, offset: ffi::sqlite3_int64) -> c_int;
    file_size: xFileSize(size: *mut ffi::sqlite3_int64) -> c_int;
    lock: xLock(level: c_int) -> c_int;
    unlock: xUnlock(level: c_int) -> c_int;
    check_reserved_lock: xCheckReservedLock(reserved: *mut c_int) -> c_int;
    sector_size: xSectorSize() -> c_int;
    device_characteristics: xDeviceCharacteristics() -> c_int;
    shm_map: xShmMap(page: c_int, size: c_int, extend: c_int, at: *mut *mut c_void) -> c_int;
    shm_lock: xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier: xShmBarrier();
    shm_unmap: xShmUnmap(delete: c_int) -> c_int;
}

/// Version 2: a log in shared memory, and no file mapped into memory, so that nothing is written past `write`.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
