//! What a Docker engine may lack: room on its own disk, for bytes and for files, call by call; and the image.
//! Never: anything but the one honest error, or half a cell that stays.

use std::process::Command;
use std::sync::Arc;

use futures_util::FutureExt;
use molt_fleet::{Ensured, HostError};
use molt_model::BotId;
use tokio::sync::Notify;

use crate::docker::Containers;
use crate::small_engine::{FILES_MAX as DISK_FILES, SmallEngine};
use crate::suite::{Found, HostUnderTest, or_skipped};

/// Room for the image and a few cells.
const DISK_MIB: u64 = 512;
/// More files than the engine makes for one cell.
const FILES_MAX: u64 = 400;
/// One limit of so many is tried in every test run.
const EVERY: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_gone_is_asked_for_and_a_cell_starts_once_it_is_back() {
    let Some(mut under) = or_skipped(Containers::set_up().await) else { return };
    let (image, gone) = (under.image(), Arc::<Notify>::default());
    let missing = format!("molt-test-gone:{}", uuid::Uuid::new_v4().simple());
    under.use_image(&missing, Some(gone.clone()));
    let (host, bot) = (under.open(), BotId::random());
    let error = host.ensure(&under.spec(&bot, 1)).await.expect_err("there is no image");
    assert!(matches!(&error, HostError::Unusable(said) if said.contains(&missing)), "{error:?}");
    gone.notified().now_or_never().expect("whoever makes it was told");
    host.stop(&bot, true).await.unwrap();
    assert_eq!(under.found(&bot).await, Found::default());
    under.engine().docker(&["tag", &image, &missing]);
    assert_eq!(host.ensure(&under.spec(&bot, 1)).await.unwrap(), Ensured::Started);
    host.stop(&bot, true).await.unwrap();
    under.engine().docker(&["image", "rm", &missing]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_engine_is_said_and_leaves_nothing_behind() {
    let Some(small) = or_skipped(SmallEngine::start(DISK_MIB)) else { return };
    let under = Containers::on(small.engine.clone());
    let (host, bot) = (under.open(), BotId::random());
    let is_folder = |left: &String| left.starts_with('/');

    small.fill(0);
    let error = host.ensure(&under.spec(&bot, 1)).await.expect_err("there is no room");
    assert!(matches!(error, HostError::DiskFull), "{error:?}");
    host.stop(&bot, true).await.unwrap();
    assert_eq!(under.found(&bot).await, Found::default());
    small.make_room();

    // No file more than this: refused, whoever notices first, this program or the engine, until all of its calls go through.
    let (mut refused, every) = (0, if std::env::var_os("MOLT_PROVE").is_some() { 1 } else { EVERY });
    for files in (0..FILES_MAX).step_by(every) {
        limit_files(&small, Some(files));
        let ensured = host.ensure(&under.spec(&bot, 1)).await;
        let found = under.found(&bot).await;
        match ensured {
            Ok(started) => {
                assert_eq!((started, found.cells.len()), (Ensured::Started, 1));
                break;
            }
            // Nothing but the folder of a bot that is meant to start.
            Err(HostError::DiskFull) => {
                assert!(found.cells.is_empty() && found.rest.iter().all(is_folder), "{found:?}")
            }
            Err(other) => panic!("with {files} more files: {other:?}"),
        }
        refused += 1;
        assert!(files + 10 < FILES_MAX, "no cell with {files} more files");
    }
    println!("refused {refused} times before it went through");
    assert!(refused > 5, "the limit holds");
    limit_files(&small, None);
    host.stop(&bot, true).await.unwrap();
    assert_eq!(under.found(&bot).await, Found::default());
    assert_eq!(host.ensure(&under.spec(&bot, 1)).await.unwrap(), Ensured::Started);
}

/// Lets so many more files be made, and no more; `None`: as many as there is room for.
fn limit_files(small: &SmallEngine, more: Option<u64>) {
    let facts = rustix::fs::statvfs(small.disk()).unwrap();
    let files = more.map_or(DISK_FILES, |more| facts.f_files - facts.f_ffree + more);
    let limit = format!("remount,nr_inodes={files}");
    assert!(Command::new("mount").args(["-o", &limit]).arg(small.disk()).status().unwrap().success());
}
