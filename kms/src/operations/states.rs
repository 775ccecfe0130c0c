//! Which states of a key an operation bears (AWS KMS developer guide, "Key states").

use super::Key;
use crate::refusal::Refusal;
use anchorhold_kms_wire::shapes::{KeyState, Origin};

impl Key {
    /// Its state, as it is shown. A key store that is disconnected hides whether its keys are enabled.
    pub(super) fn state(&self) -> KeyState {
        match &self.record.state {
            KeyState::Enabled | KeyState::Disabled if self.unavailable => KeyState::Unavailable,
            state => state.clone(),
        }
    }

    /// For operations that use the key.
    pub(super) fn usable(&self) -> Result<(), Refusal> {
        match &self.state() {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => Err(Refusal::new(
                "DisabledException",
                format!("{} is disabled.", self.arn),
            )),
            other => Err(self.in_the_wrong_state(other)),
        }
    }

    /// For operations that change it, disabled or not, with material or without.
    pub(super) fn not_pending_deletion(&self) -> Result<(), Refusal> {
        match &self.record.state {
            state @ (KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
                Err(self.in_the_wrong_state(state))
            }
            _ => Ok(()),
        }
    }

    /// For `ImportKeyMaterial`, which is for keys that wait for material or are enabled, and leaves them enabled.
    pub(super) fn takes_material(&self) -> Result<(), Refusal> {
        match &self.record.state {
            KeyState::PendingImport | KeyState::Enabled => Ok(()),
            other => Err(self.in_the_wrong_state(other)),
        }
    }

    /// For `EnableKey` and `DisableKey`.
    pub(super) fn can_be_switched(&self) -> Result<(), Refusal> {
        match &self.record.state {
            KeyState::Enabled | KeyState::Disabled => Ok(()),
            other => Err(self.in_the_wrong_state(other)),
        }
    }

    /// For `CancelKeyDeletion`.
    pub(super) fn pending_deletion(&self) -> Result<(), Refusal> {
        match &self.record.state {
            KeyState::PendingDeletion | KeyState::PendingReplicaDeletion => Ok(()),
            _ => Err(Refusal::new(
                "KMSInvalidStateException",
                format!("{} is not pending deletion.", self.arn),
            )),
        }
    }

    /// For operations about imported material.
    pub(super) fn is_imported(&self) -> Result<(), Refusal> {
        self.has_origin(&Origin::External)
    }

    pub(super) fn has_origin(&self, origin: &Origin) -> Result<(), Refusal> {
        if self.record.origin == *origin {
            return Ok(());
        }
        Err(Refusal::unsupported(format!(
            "{} origin is {} which is not valid for this operation.",
            self.arn, self.record.origin
        )))
    }

    fn in_the_wrong_state(&self, state: &KeyState) -> Refusal {
        let is = match state {
            KeyState::PendingDeletion => "pending deletion",
            KeyState::PendingReplicaDeletion => "pending replica deletion",
            KeyState::PendingImport => "pending import",
            KeyState::Unavailable => "unavailable",
            KeyState::Creating => "creating",
            KeyState::Updating => "updating",
            KeyState::Enabled => "enabled",
            KeyState::Disabled => "disabled",
            KeyState::Unknown(_) => "in an unknown state",
        };
        Refusal::new("KMSInvalidStateException", format!("{} is {is}.", self.arn))
    }
}
