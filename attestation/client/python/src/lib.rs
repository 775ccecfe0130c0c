//! The native part of the Python client. TLS ends here and not in Python, whose `ssl` module neither gives the exporter's
//! value (RFC 9266) nor waits with an answer until a document was judged: Python carries ciphertext, and has no plaintext
//! and no way to send any before the enclave is admitted.
//!
//! It has no sockets, threads or event loop of its own. What a word means, the package `anchorhold` says.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anchorhold_client::{Approach, Carried, ConnectError, Protocol, Step};
use anchorhold_verifier::{Terms, facts};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(
    _anchorhold,
    AttestationError,
    PyException,
    "No channel: whoever answers is not the enclave that is wanted. Its arguments are a message, the step that refused, and \
     stable names of what is wrong."
);

/// Answers a question in JSON.
#[pyfunction]
fn ask(py: Python<'_>, question: &[u8]) -> Vec<u8> {
    py.detach(|| anchorhold_verifier::ask(question))
}

/// Whom to trust and what to expect.
#[pyclass(frozen, module = "anchorhold._anchorhold")]
struct Connector(anchorhold_client::Connector);

#[pymethods]
impl Connector {
    /// Terms in JSON; protocols: `http1`, `http2`, or `either`.
    #[new]
    fn new(terms: &str) -> PyResult<Self> {
        let terms = Terms::from_json(terms).map_err(value_error)?;
        let connector = anchorhold_client::Connector::new(
            terms.anchors().map_err(value_error)?,
            terms.expectations().map_err(value_error)?,
        );
        Ok(Connector(connector))
    }

    /// Begins a channel.
    fn begin(&self, host: &str, protocol: &str) -> PyResult<Channel> {
        let protocol = match protocol {
            "http1" => Protocol::Http1,
            "http2" => Protocol::Http2,
            "either" => Protocol::Either,
            other => {
                return Err(PyValueError::new_err(format!(
                    "{other:?} is no protocol: say http1, http2 or either"
                )));
            }
        };
        let approach = self
            .0
            .clone()
            .protocol(protocol)
            .approach(host)
            .map_err(|error| refusal(&error))?;
        Ok(Channel(Mutex::new(State::Approach(Box::new(approach)))))
    }
}

enum State {
    Approach(Box<Approach>),
    Channel(Box<Carried>),
    /// Something went wrong: nothing more goes through.
    Over,
}

/// A channel, or the way to one.
#[pyclass(frozen, module = "anchorhold._anchorhold")]
struct Channel(Mutex<State>);

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that only a channel can do.
    fn admitted_to<T>(
        &self,
        what: impl FnOnce(&mut Carried) -> Result<T, ConnectError>,
    ) -> PyResult<T> {
        let mut state = self.lock();
        match &mut *state {
            State::Channel(channel) => what(channel).map_err(|error| {
                *state = State::Over;
                refusal(&error)
            }),
            State::Approach(_) => Err(not_admitted("the enclave is not admitted yet")),
            State::Over => Err(not_admitted("the channel is over")),
        }
    }
}

#[pymethods]
impl Channel {
    /// What is to be sent to the other side.
    fn outgoing<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = match &mut *self.lock() {
            State::Approach(approach) => approach.outgoing(),
            State::Channel(channel) => channel.outgoing(),
            State::Over => Vec::new(),
        };
        PyBytes::new(py, &bytes)
    }

    /// Takes bytes from the other side; what the enclave has said, which is nothing before it is admitted.
    fn receive<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let said = py.detach(|| {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Over) {
                State::Approach(approach) => match approach.receive(bytes) {
                    Ok(Step::More(approach)) => {
                        *state = State::Approach(approach);
                        Ok(Vec::new())
                    }
                    Ok(Step::Channel(mut channel)) => {
                        let said = channel.receive(b"");
                        *state = State::Channel(channel);
                        said
                    }
                    Err(error) => Err(error),
                },
                State::Channel(mut channel) => {
                    let said = channel.receive(bytes);
                    if said.is_ok() {
                        *state = State::Channel(channel);
                    }
                    said
                }
                State::Over => Err(ConnectError::HungUp),
            }
        });
        said.map(|said| PyBytes::new(py, &said))
            .map_err(|error| refusal(&error))
    }

    /// Says something to the enclave: the bytes to send to the other side for it, in this order.
    fn send<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let sent = py.detach(|| self.admitted_to(|channel| Ok(channel.send(bytes)?)));
        sent.map(|sent| PyBytes::new(py, &sent))
    }

    /// The bytes that say that nothing more will come; none where there is no channel.
    fn close<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut state = self.lock();
        let bytes = match &mut *state {
            State::Channel(channel) => channel.close(),
            _ => Vec::new(),
        };
        PyBytes::new(py, &bytes)
    }

    /// Whether the enclave has said that nothing more will come.
    fn has_ended(&self) -> bool {
        match &mut *self.lock() {
            State::Channel(channel) => channel.has_ended(),
            _ => false,
        }
    }

    /// Whether HTTP/2 was agreed upon.
    fn is_http2(&self) -> PyResult<bool> {
        self.admitted_to(|channel| Ok(channel.is_http2()))
    }

    /// What the document says that the enclave was admitted for, in JSON; `None` before.
    fn admitted(&self) -> Option<String> {
        match &*self.lock() {
            State::Channel(channel) => Some(facts(channel.admitted())),
            _ => None,
        }
    }
}

fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn not_admitted(message: &str) -> PyErr {
    AttestationError::new_err((message.to_owned(), "state", Vec::<&str>::new()))
}

fn refusal(error: &ConnectError) -> PyErr {
    AttestationError::new_err((error.to_string(), error.step(), error.names()))
}

/// The module.
#[pymodule]
fn _anchorhold(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(ask, module)?)?;
    module.add_class::<Connector>()?;
    module.add_class::<Channel>()?;
    module.add(
        "AttestationError",
        module.py().get_type::<AttestationError>(),
    )
}
