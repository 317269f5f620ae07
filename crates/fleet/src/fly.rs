//! The host that is Fly: a bot is an app with a network, an address, a volume and one machine of its own, all of them named
//! after the bot, so that every step can be found again after any crash.
//! Never: touch an app or a machine that isn't one of ours by name, organisation and network; open a bot to the public; or
//! put a secret anywhere but into the app's secrets.

mod ahead;
mod api;
mod app;
mod claim;
mod connect;
mod life;
mod machine;
mod pace;
mod seen;
mod settings;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use molt_bot::CellAddress;
use molt_model::BotId;
use tokio::sync::OwnedMutexGuard;

use self::ahead::lacks_room;
use self::api::{Api, Call, Failure};
use self::app::{Owner, Place};
use self::life::network_address;
use self::machine::Purpose;
use self::pace::Action;
use self::seen::Seen;
use self::wire::{Apps, Machine, Organisation, Stand};
use crate::host::{BoxFuture, CellSpec, Ensured, Host, HostError, Prepares, Report, Used};
pub use settings::{FlySettings, WATCH_PERIOD};

/// How often a step is tried whose answer was lost, before the loop comes again later.
const TRIES: u32 = 4;
/// Fly's own books need a moment after something broke.
const LOST_PAUSE: Duration = Duration::from_millis(300);
/// Shorter than a worker's lease on the bot, so that never two of them work on it.
const ENSURE_MAX: Duration = Duration::from_secs(200);
/// What the deletion of an app may take until it is confirmed.
const DELETE_MAX: Duration = Duration::from_secs(100);
const DELETE_PAUSE: Duration = Duration::from_secs(1);
/// Bots on a page of a list, and how many pages there may be at most.
const PAGE: usize = 500;
const PAGES_MAX: usize = 1000;

/// Bots as apps at Fly.
pub struct FlyHost {
    api: Api,
    settings: FlySettings,
    seen: Seen,
    /// The last listing of all machines, and when it began.
    listing: tokio::sync::Mutex<Option<(Instant, HashMap<BotId, bool>)>>,
    /// One call per bot at a time.
    busy: Mutex<HashMap<BotId, Arc<tokio::sync::Mutex<()>>>>,
}

impl FlyHost {
    /// Checks the settings; nothing is asked of Fly yet.
    pub fn new(settings: FlySettings) -> Result<Self, HostError> {
        let faults = settings.faults();
        if !faults.is_empty() {
            return Err(HostError::Unusable(faults.join("; ")));
        }
        let api = Api::new(&settings.api_url, &settings.token)?;
        Ok(Self {
            api,
            settings,
            seen: Seen::default(),
            listing: tokio::sync::Mutex::default(),
            busy: Mutex::default(),
        })
    }

    /// Whether Fly answers and takes the token, for `molt doctor`. How many of this installation's bots have a place there, spare
    /// ones among them.
    pub async fn check(&self) -> Result<usize, HostError> {
        Ok(self.all_bots().await?.len())
    }

    fn place<'a>(&'a self, bot: &'a BotId) -> Place<'a> {
        Place { api: &self.api, settings: &self.settings, bot, app: self.settings.app(bot) }
    }

    async fn alone(&self, bot: &BotId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(bot.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    async fn make(&self, spec: &CellSpec) -> Result<Ensured, HostError> {
        let place = self.place(&spec.bot);
        let (found, names) = tokio::join!(found(&place), place.names_for(spec.claim));
        let (fresh, machine) = found?;
        place.check_claim(spec.claim, machine.as_ref(), &names?)?;
        let (ensured, cell) = match machine {
            Some(machine) if machine.stand() != Stand::Down => return Ok(Ensured::AlreadyThere),
            Some(machine) => match place.renew(&machine, spec).await {
                // Nothing is in what was made ahead, so it needn't stay where it is.
                Err(error) if machine.was_never_launched() && lacks_room(&error) => {
                    let full = place.withdraw(true).await?;
                    tracing::warn!(
                        fly.regions = full.join(","),
                        "a region at Fly has no room for a machine that was made ahead; the next one is tried"
                    );
                    fill(&place, Purpose::Start(spec), false, full).await?
                }
                renewed => renewed?,
            },
            None => fill(&place, Purpose::Start(spec), fresh, Vec::new()).await?,
        };
        if ensured == Ensured::Started {
            self.seen.present(&spec.bot, cell);
            tracing::info!(bot.id = %spec.bot, "a cell was started");
        }
        Ok(ensured)
    }

    async fn make_ahead(&self, bot: &BotId) -> Result<(), HostError> {
        let place = self.place(bot);
        let (fresh, machine) = found(&place).await?;
        if machine.is_none() {
            fill(&place, Purpose::Ahead, fresh, Vec::new()).await?;
        }
        Ok(())
    }

    /// Where the cell of a machine answers: what we noted on it, else what Fly says.
    async fn address(&self, place: &Place<'_>, machine: &Machine) -> Result<CellAddress, HostError> {
        let noted = machine::address(&machine.config).and_then(|address| format!("tcp:{address}").parse().ok());
        match noted {
            Some(address) => Ok(address),
            None => place.ensure_address(false).await,
        }
    }

    async fn look(&self, bot: &BotId) -> Result<Report, HostError> {
        if let Some(address) = self.seen.fresh(bot) {
            return Ok(Report::Present { address });
        }
        let place = self.place(bot);
        let machine = place.machine().await?;
        // What Fly can't reach may still run: it counts as present, so that nobody makes a second one.
        let Some(machine) = machine.filter(|machine| machine.stand() != Stand::Down) else {
            self.seen.absent(bot);
            return Ok(Report::Absent);
        };
        let address = self.address(&place, &machine).await?;
        self.seen.present(bot, address.clone());
        Ok(Report::Present { address })
    }

    async fn end(&self, bot: &BotId, remove: bool) -> Result<(), HostError> {
        let place = self.place(bot);
        if remove {
            self.delete(&place).await?;
        } else {
            place.stop().await?;
        }
        self.seen.absent(bot);
        Ok(())
    }

    /// The app goes with everything that is in it; it is gone when Fly doesn't know it any more.
    async fn delete(&self, place: &Place<'_>) -> Result<(), HostError> {
        let until = Instant::now() + DELETE_MAX;
        let mut told = false;
        loop {
            if place.owner().await? != Owner::Us {
                return Ok(());
            }
            if !told {
                if place.machines().await?.iter().any(|machine| machine.name != machine::NAME) {
                    return Err(HostError::Unusable(format!(
                        "the app {} at Fly holds a machine that is not the bot's; take it away, then the app is deleted",
                        place.app
                    )));
                }
                let call = Call::new(Action::DeleteApp, &place.app, Method::DELETE, place.path(""));
                match self.api.tell(call).await {
                    Ok(()) => told = true,
                    Err(failure) if failure.is_unknown() || failure.is_status(StatusCode::NOT_FOUND) => {}
                    Err(failure) => return Err(failure.into()),
                }
            }
            if Instant::now() > until {
                return Err(Failure::Unknown("an app is still being deleted").into());
            }
            tokio::time::sleep(DELETE_PAUSE).await;
        }
    }

    /// By the list of the organisation's apps: a bot that has no machine yet, or none any more, has an app.
    async fn all_bots(&self) -> Result<Vec<BotId>, HostError> {
        let (mut bots, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let after = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let path = format!("/v1/apps?org_slug={}&limit={PAGE}{after}", self.settings.org);
            let page = self.api.read::<Apps>(Action::ListApps, "", &path).await?;
            let page = page.ok_or_else(|| {
                HostError::Unusable("Fly knows no organisation of the name that fleet.fly.org says".to_owned())
            })?;
            bots.extend(page.apps.iter().filter_map(|app| self.settings.bot(&app.name)));
            match page.next_cursor.filter(|next| !next.is_empty()) {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => {
                    bots.sort();
                    bots.dedup();
                    return Ok(bots);
                }
            }
        }
        Err(Failure::Unknown("its list of apps does not end").into())
    }

    /// Whether the listing of all machines, made anew now and then for all who ask, says that the cell is gone.
    async fn is_listed_as_gone(&self, bot: &BotId) -> bool {
        let mut listing = self.listing.lock().await;
        if listing.as_ref().is_none_or(|(began, _)| began.elapsed() >= self.settings.watch_period / 2) {
            let began = Instant::now();
            match self.all_machines().await {
                Ok(machines) => *listing = Some((began, machines)),
                Err(failure) => {
                    tracing::warn!(
                        error = &failure as &dyn std::error::Error,
                        "Fly's machines can't be listed just now"
                    );
                    return false;
                }
            }
        }
        // The listing lags behind: a cell that came after it says nothing, nor one that came just before.
        let (Some((began, machines)), Some(since)) = (listing.as_ref(), self.seen.since(bot)) else { return true };
        since + self.settings.watch_period < *began && !machines.get(bot).copied().unwrap_or(false)
    }

    async fn all_machines(&self) -> Result<HashMap<BotId, bool>, Failure> {
        let (mut machines, mut cursor) = (HashMap::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let after = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let path = format!("/v1/orgs/{}/machines?limit={PAGE}{after}", self.settings.org);
            let page = self.api.read::<Organisation>(Action::ListOrganisation, "", &path).await?;
            let page = page.ok_or(Failure::Unknown("it has no list of machines"))?;
            if page.error_regions.is_some_and(|regions| !regions.is_empty()) {
                return Err(Failure::Unknown("its list of machines lacks a region"));
            }
            for machine in page.machines.iter().filter(|machine| machine.name == machine::NAME) {
                if let Some(bot) = self.settings.bot(&machine.app_name) {
                    let runs = !matches!(wire::stand(&machine.state), Stand::Down | Stand::Gone | Stand::Leaving);
                    machines.insert(bot, runs);
                }
            }
            match page.next_cursor.filter(|next| !next.is_empty()) {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(machines),
            }
        }
        Err(Failure::Unknown("its list of machines does not end"))
    }
}

/// What there is: whether the app was made just now, and the machine in it. Neither look needs the other; both come to their
/// end, so that no call is left half heard.
async fn found(place: &Place<'_>) -> Result<(bool, Option<Machine>), HostError> {
    let (fresh, machine) = tokio::join!(place.ensure_app(), place.settled_machine());
    Ok((fresh?, machine?))
}

/// What an app without a machine lacks, the machine last. `full`: regions that are known to have no room.
async fn fill(
    place: &Place<'_>,
    purpose: Purpose<'_>,
    fresh: bool,
    mut full: Vec<String>,
) -> Result<(Ensured, CellAddress), HostError> {
    let (cell, volume) = tokio::join!(place.ensure_address(fresh), place.ready_volume(purpose, fresh, &mut full));
    let (cell, volume) = (cell?, volume?);
    let ensured = place.create(purpose, Some(volume), &mut full, network_address(&cell)?).await?;
    Ok((ensured, cell))
}

impl Host for FlyHost {
    fn kind(&self) -> &'static str {
        "fly"
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(async move {
            let work = async {
                let _alone = self.alone(&spec.bot).await;
                self.make(spec).await
            };
            tokio::time::timeout(ENSURE_MAX, work).await.map_err(|_| Failure::Unknown("a start takes too long"))?
        })
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(async move {
            let _alone = self.alone(bot).await;
            self.look(bot).await
        })
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let work = async {
                let _alone = self.alone(bot).await;
                self.end(bot, remove).await
            };
            tokio::time::timeout(ENSURE_MAX, work).await.map_err(|_| HostError::WontEnd { bot: bot.clone() })?
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(self.all_bots())
    }

    /// Fly tells nobody that a machine ended. A cell that doesn't answer is noticed by the questions about its health; this
    /// finds the rest, by one listing for all bots now and then.
    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            loop {
                if tokio::time::timeout(self.settings.watch_period, self.seen.gone(bot)).await.is_ok() {
                    return;
                }
                if self.is_listed_as_gone(bot).await {
                    self.seen.absent(bot);
                    return;
                }
            }
        })
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        Some(self)
    }
}

/// Everything but the secrets, and the machine isn't launched: creating one takes Fly seconds, starting one that is there a
/// fraction of one.
impl Prepares for FlyHost {
    fn prepare<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let work = async {
                let _alone = self.alone(bot).await;
                self.make_ahead(bot).await
            };
            tokio::time::timeout(ENSURE_MAX, work).await.map_err(|_| Failure::Unknown("a place takes too long"))?
        })
    }

    fn withdraw<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let work = async {
                let _alone = self.alone(bot).await;
                let place = self.place(bot);
                match place.owner().await? {
                    Owner::Us => place.withdraw(false).await.map(drop),
                    Owner::Nobody | Owner::Another => Ok(()),
                }
            };
            tokio::time::timeout(DELETE_MAX, work).await.map_err(|_| Failure::Unknown("a place does not go"))?
        })
    }

    fn used<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Used, HostError>> {
        Box::pin(async move {
            let place = self.place(bot);
            let (machine, names) = tokio::join!(place.machine(), place.secret_names());
            Ok(claim::used(machine?.as_ref(), &names?))
        })
    }
}
