//! A front door with nobody behind it but Postgres and the loops that a test runs by hand.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use molt_api::{ApiState, Config};
use molt_billing::{Inbox, LocalPayments};
use molt_identity::{Local, SignUp};
use molt_model::clock::MovedClock;
use molt_model::{Catalog, ModelFacts, Price, PriceVersion};
use molt_store::testing::{TestDatabase, database};
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const ADDRESS: &str = "http://127.0.0.1:8787";
pub(crate) const PASSWORD: &str = "correct horse battery";

pub(crate) struct Door {
    pub(crate) database: TestDatabase,
    pub(crate) clock: MovedClock,
    pub(crate) router: Router,
    pub(crate) inbox: Inbox,
}

/// A person who is logged in.
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) token: String,
    pub(crate) cookie: String,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {} {}", self.status, self.text))
    }

    pub(crate) fn cookie(&self) -> String {
        let cookie = self.headers.get(SET_COOKIE).expect("a cookie").to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// Checks that this is a Problem with this status and code, in full; returns it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let body = self.any_problem();
        assert_eq!((self.status.as_u16(), body["code"].as_str()), (status, Some(code)), "{}", self.text);
        body
    }

    #[track_caller]
    pub(crate) fn any_problem(&self) -> Value {
        let kind = self.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{} {}", self.status, self.text);
        let body = self.json();
        assert_eq!(body["status"].as_u64(), Some(u64::from(self.status.as_u16())));
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.len() > 10 && detail.ends_with(['.', '?']), "a sentence that says what to do: {detail}");
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
        let code = body["code"].as_str().unwrap();
        assert_eq!(body["type"], json!(format!("/api/docs#{code}")));
        assert!(molt_api::Code::ALL.iter().any(|known| known.as_str() == code));
        body
    }
}

pub(crate) async fn door() -> Door {
    door_with(SignUp::Open).await
}

pub(crate) async fn door_with(signup: SignUp) -> Door {
    door_for(signup, &[]).await
}

/// A door that pages of other origins may use too.
pub(crate) async fn door_for(signup: SignUp, origins: &[&str]) -> Door {
    let database = database().await;
    let clock = MovedClock::default();
    let store = database.store.clone();
    let config = molt_identity::Config { signup, https: false, public_url: ADDRESS.to_owned() };
    let local = Arc::new(Local::new(config, store.clone(), Arc::new(clock.clone())));
    let payments = Arc::new(LocalPayments::new(ADDRESS.to_owned()));
    let mut config = Config::new(ADDRESS.parse().unwrap());
    config.origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    assert!(config.validate().is_empty());
    let state = ApiState::local(store.clone(), Arc::new(clock.clone()), catalog().into(), local, payments, config);
    let router = molt_api::router(state);
    let inbox = Inbox::new(store, Arc::new(clock.clone()));
    Door { database, clock, router, inbox }
}

pub(crate) fn catalog() -> Catalog {
    let model = |id: &str, embedding| ModelFacts {
        id: id.to_owned(),
        name: id.to_uppercase(),
        price: Price::flat(2_000_000_000, 8_000_000_000).with_cache_read(500_000_000),
        context_window: 128_000,
        output_max: 8_000,
        reasoning: false,
        vision: false,
        strengths: "Good at being tested.".to_owned(),
        embedding,
        listed: true,
    };
    let models = vec![model("practice/one", false), model("practice/two", false), model("practice/embed", true)];
    let version = PriceVersion("test".to_owned());
    Catalog::new(version, models, "practice/one".to_owned(), Some("practice/embed".to_owned()))
}

impl Door {
    /// Sends a request as it is. A stream of events is not read to its end, which would never come.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let endless = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        let bytes = if endless { Vec::new() } else { body.collect().await.unwrap().to_bytes().to_vec() };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Answer {
        self.call_with(method, path, token, body, &[]).await
    }

    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        if !token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call("POST", path, token, Some(&body)).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, token, None).await
    }

    pub(crate) async fn with_cookie(&self, path: &str, cookie: &str) -> Answer {
        self.call_with("POST", path, "", None, &[(COOKIE.as_str(), cookie)]).await
    }

    /// Signs somebody up.
    pub(crate) async fn person(&self, name: &str) -> Person {
        let email = format!("{}@example.com", name.to_lowercase());
        let answer =
            self.post("/api/auth/signup", "", json!({ "email": email, "password": PASSWORD, "name": name })).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        person_of(&email, &answer)
    }

    /// Takes a person through the wizard.
    pub(crate) async fn bot(&self, person: &Person, name: &str) -> String {
        let body = json!({ "bot_name": name, "vertical": "developer", "timezone": "Europe/Berlin" });
        let answer = self.post("/api/bots", &person.token, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Accepts the plan and runs the loop that puts it in force.
    pub(crate) async fn plan(&self, person: &Person) -> Answer {
        let link = self.post("/api/billing/checkout", &person.token, json!({})).await.json();
        let path = link["url"].as_str().unwrap().strip_prefix(ADDRESS).unwrap().to_owned();
        let answer = self.call("POST", &path, &person.token, None).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(self.inbox.run_once().await.unwrap().processed, 1);
        answer
    }
}

pub(crate) fn person_of(email: &str, answer: &Answer) -> Person {
    let body = answer.json();
    Person {
        id: body["user"]["id"].as_str().unwrap().to_owned(),
        email: email.to_owned(),
        token: body["token"].as_str().unwrap().to_owned(),
        cookie: answer.cookie(),
    }
}
