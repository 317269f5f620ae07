//! The routes of the models in force, and what is counted of each, made once for each model and surface, so that a call
//! only points at them.
//! Never: a route of an older price book for a new call.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use molt_model::{Catalog, Target};

use crate::journal::Route;
use crate::metrics::{Metrics, Series};
use crate::surface::Surface;

/// Names that nobody knows but a ceiling covers come from callers; beyond so many they are made anew for each call.
const KEPT_MAX: usize = 4_096;

#[derive(Default)]
pub(crate) struct Routes(RwLock<Kept>);

/// A route, and what is counted of the calls that take it.
pub(crate) type Known = (Arc<Route>, Arc<Series>);

#[derive(Default)]
struct Kept {
    of: Option<Arc<Catalog>>,
    routes: HashMap<Surface, HashMap<String, Known>>,
}

impl Routes {
    pub(crate) fn of(&self, catalog: &Arc<Catalog>, surface: Surface, target: &Target<'_>, metrics: &Metrics) -> Known {
        {
            let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if kept.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, catalog))
                && let Some(known) = kept.routes.get(&surface).and_then(|routes| routes.get(target.id))
            {
                return known.clone();
            }
        }
        let route = Arc::new(Route {
            provider: target.provider.into(),
            model: target.id.into(),
            surface: surface.name().into(),
            price: target.facts.price.clone(),
            price_version: catalog.version.clone(),
        });
        let known = (route, metrics.series(surface, target));
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !kept.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, catalog)) {
            *kept = Kept { of: Some(Arc::clone(catalog)), routes: HashMap::new() };
        }
        let routes = kept.routes.entry(surface).or_default();
        if routes.len() < KEPT_MAX {
            routes.insert(target.id.to_owned(), known.clone());
        }
        known
    }
}
