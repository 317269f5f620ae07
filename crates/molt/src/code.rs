//! The code of a model call, moved into one page of 2 MiB (docs/decisions/0017).
//! Never: a change of that code, or a program that does not run because it could not be moved.

use std::io;

/// Moves what the linker laid at the beginning of the program's code (`calls.ld`) out of the file and into memory of its own,
/// to the same addresses. Only before there is a second thread. `false`: this program was not laid out for it, or the kernel
/// gives no such pages.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn gather() -> io::Result<bool> {
    linux::gather()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn gather() -> io::Result<bool> {
    Ok(false)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux {
    use std::ffi::c_void;
    use std::fs;
    use std::io;
    use std::ptr;

    use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
    use rustix::mm::{madvise, mmap_anonymous, mprotect, mremap_fixed, munmap};
    use rustix::thread::disable_transparent_huge_pages;

    /// Of a page, in bytes; on x86-64.
    const HUGE: usize = 2 * 1024 * 1024;
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

    pub(super) fn gather() -> io::Result<bool> {
        if fs::read_to_string(SETTING).is_ok_and(|setting| setting.contains("[never]")) {
            return Ok(false);
        }
        let maps = fs::read_to_string("/proc/self/maps")?;
        let Some(code) = begins(&maps, gather as *const () as usize) else { return Ok(false) };
        disable_transparent_huge_pages(false)?;
        let moved = relocate(code);
        disable_transparent_huge_pages(true)?;
        moved.map(|()| true)
    }

    /// Where the mapping that this code runs in begins, if a huge page begins there and is full of it.
    fn begins(maps: &str, code: usize) -> Option<usize> {
        let hex = |text| usize::from_str_radix(text, 16).ok();
        let mut ranges = maps.lines().filter_map(|line| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            Some(hex(from)?..hex(to)?)
        });
        let own = ranges.find(|range| range.contains(&code))?;
        (own.start.is_multiple_of(HUGE) && own.len() >= HUGE).then_some(own.start)
    }

    /// One call to the kernel takes the old page away and puts the new one there, so no instruction is ever missing.
    #[expect(
        unsafe_code,
        reason = "memory under the code that runs can't be changed otherwise; its bytes stay the same"
    )]
    fn relocate(code: usize) -> io::Result<()> {
        let code = ptr::with_exposed_provenance_mut::<c_void>(code);
        // SAFETY: the page is ours alone. The code is mapped, readable and as long, and nobody writes to it; what replaces it has
        // the same bytes and may be run.
        unsafe {
            let page = page()?;
            let moved = (|| {
                madvise(page, HUGE, Advice::LinuxHugepage)?;
                ptr::copy_nonoverlapping(code.cast::<u8>(), page.cast::<u8>(), HUGE);
                mprotect(page, HUGE, MprotectFlags::READ | MprotectFlags::EXEC)?;
                mremap_fixed(page, HUGE, HUGE, MremapFlags::MAYMOVE, code)
            })();
            if moved.is_err() {
                munmap(page, HUGE)?;
            }
            moved?;
        }
        Ok(())
    }

    /// New memory that begins where a huge page may, and is as long.
    #[expect(unsafe_code, reason = "memory that no allocator gives out")]
    fn page() -> io::Result<*mut c_void> {
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: nothing is asked for at a place of our choice, and only what was just got is given back.
        unsafe {
            let room = mmap_anonymous(ptr::null_mut(), 2 * HUGE, writable, MapFlags::PRIVATE)?;
            let before = room.addr().next_multiple_of(HUGE) - room.addr();
            let page = room.byte_add(before);
            if before > 0 {
                munmap(room, before)?;
            }
            munmap(page.byte_add(HUGE), HUGE - before)?;
            Ok(page)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const MAPS: &str = "\
55d000000000-55d000400000 r--p 00000000 fe:00 1 /usr/bin/molt
55d000400000-55d000700000 r-xp 00400000 fe:00 1 /usr/bin/molt
55d000701000-55d000801000 rw-p 00700000 fe:00 1 /usr/bin/molt
7f0000001000-7f0000801000 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6
7f0000a00000-7f0000a01000 r-xp 00000000 fe:00 3 /usr/lib/small.so
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";

        #[test]
        fn a_page_of_code_is_found_where_it_is_whole_and_lies_as_it_must() {
            assert_eq!(begins(MAPS, 0x55d0_0040_0000), Some(0x55d0_0040_0000));
            assert_eq!(begins(MAPS, 0x55d0_006f_ffff), Some(0x55d0_0040_0000), "anywhere in it");
            for (code, why) in [
                (0x7f00_0000_1000, "it begins elsewhere"),
                (0x7f00_00a0_0000, "it is too short"),
                (0x55d0_0070_0000, "nothing is there"),
            ] {
                assert_eq!(begins(MAPS, code), None, "{why}");
            }
        }

        /// Not this program's own code, which other tests run at the same time: a page of the same kind.
        #[test]
        #[expect(unsafe_code, reason = "the test needs memory with code in it")]
        fn what_is_moved_is_still_there_and_still_runs() {
            // mov eax, 42; ret
            const ANSWER: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];
            // SAFETY: the memory is the test's own, and what is called in it is the function above.
            unsafe {
                let page = page().unwrap();
                let last = page.byte_add(HUGE - ANSWER.len());
                for place in [page, last] {
                    ptr::copy_nonoverlapping(ANSWER.as_ptr(), place.cast::<u8>(), ANSWER.len());
                }
                mprotect(page, HUGE, MprotectFlags::READ | MprotectFlags::EXEC).unwrap();
                relocate(page.expose_provenance()).unwrap();
                for place in [page, last] {
                    let function: extern "C" fn() -> i32 = std::mem::transmute(place);
                    assert_eq!(function(), 42);
                }
                munmap(page, HUGE).unwrap();
            }
        }
    }
}
