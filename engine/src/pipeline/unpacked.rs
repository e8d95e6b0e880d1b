//! Bodies that came packed, unpacked: piece by piece, each within the room that is taken for it before.

use std::{sync::Arc, time::Duration};

use identity::principal::Principal;
use tokio::time::Instant;

use super::{
    heavy::{self, LIGHT_BYTES_MAX},
    settled::Record,
};
use crate::{
    gateway::Gateway,
    http::{
        arrival::{ArrivalFault, Arrived},
        refusal::Refusal,
        room::SMALL_BYTES,
        unpack::{Piece, Unpacking},
    },
};

/// How many packed bytes are read at once.
const PACKED_BYTES: usize = 16 * 1024;
/// How long one turn takes, at most a piece longer.
const TURN: Duration = Duration::from_millis(50);

/// The body as its client meant it. One that turns out to be large takes a request and a slot of the limits before
/// it is gone on with, like one that arrives as it is; and what takes long is done in turns of the tenants.
pub(super) async fn unpacked(
    arrived: Arrived,
    principal: &Principal,
    gateway: &Arc<Gateway>,
    record: &mut Record,
) -> Result<Arrived, Refusal> {
    let Arrived { bytes, coding, mut room } = arrived;
    let Some(coding) = coding else { return Ok(Arrived { bytes, coding, room }) };
    let packed = bytes.len();
    let mut began = Instant::now();
    let bytes_max = gateway.server.body_bytes_max;
    let mut unpacking = Unpacking::new(coding, bytes, bytes_max)?;
    let mut until = SMALL_BYTES;
    let mut pieces = 0;
    loop {
        let held = packed + until + coding.decoder_bytes(until);
        room.resize(held).map_err(|_| ArrivalFault::NoRoom)?;
        unpacking.reserve(until);
        let is_light = pieces < 2 && until <= LIGHT_BYTES_MAX;
        let piece = if is_light {
            unpacking.piece(until, PACKED_BYTES)
        } else {
            let work = move || {
                let began = Instant::now();
                let mut piece = unpacking.piece(until, PACKED_BYTES);
                while piece == Ok(Piece::More) && unpacking.len() < until && began.elapsed() < TURN
                {
                    piece = unpacking.piece(until, PACKED_BYTES);
                }
                (unpacking, piece)
            };
            let (after, piece) = heavy::in_turn(gateway, principal.tenant, work).await?;
            unpacking = after;
            piece
        };
        if piece? == Piece::Last {
            break;
        }
        pieces += 1;
        if record.entered().is_none() {
            record.spent().arrive += began.elapsed();
            record.enter(principal, gateway).await?;
            began = Instant::now();
        }
        if unpacking.len() == until {
            let next = until.saturating_mul(2).max(LIGHT_BYTES_MAX);
            until = next.min(bytes_max.saturating_add(1));
        }
    }
    let bytes = unpacking.finish();
    // Fewer than were held before.
    room.resize(bytes.len()).map_err(|_| ArrivalFault::NoRoom)?;
    record.spent().arrive += began.elapsed();
    Ok(Arrived { bytes, coding: None, room })
}
