//! The policy's parameters by name, as a scenario sets and sweeps them. Reasons and units: [`Params`].

use std::time::Duration;

use crate::policy::Params;

/// Above every bound that makes sense: a petabyte, 30,000 years.
const MOST: f64 = 1e15;
/// Shortest heartbeat: more would be a simulation of nothing else.
const SHORTEST_HEARTBEAT: f64 = 0.1;

/// Why a parameter cannot be set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SetError {
    #[error("must be a number; times are in seconds, sizes in bytes")]
    NotANumber,
    #[error("must be between {least} and {most:e}")]
    OutOfRange { least: f64, most: f64 },
    #[error("is no parameter of the policy that a scenario may set")]
    Unknown,
}

/// Sets one to a number: seconds where it is a time.
pub fn set(params: &mut Params, name: &str, value: &toml::Value) -> Result<(), SetError> {
    let number = match value {
        toml::Value::Float(number) => *number,
        toml::Value::Integer(number) => *number as f64,
        toml::Value::Boolean(is_on) if name == "cut_through" => {
            params.cut_through = *is_on;
            return Ok(());
        }
        _ => return Err(SetError::NotANumber),
    };
    let least = if name == "heartbeat" { SHORTEST_HEARTBEAT } else { 0.0 };
    if !(least..=MOST).contains(&number) {
        return Err(SetError::OutOfRange { least, most: MOST });
    }
    if name == "heartbeat" {
        // How long one may be silent follows from how often it should speak.
        let factor = number / params.heartbeat.as_secs_f64();
        params.stale_after = params.stale_after.mul_f64(factor);
        params.dead_after = params.dead_after.mul_f64(factor);
    }
    let is_known = set_time(params, name, number) || set_number(params, name, number);
    if is_known { Ok(()) } else { Err(SetError::Unknown) }
}

/// `match name { "field" => params.field = value, ... }` over listed fields; whether it was one of them.
macro_rules! by_name {
    ($params:ident, $name:ident, $value:expr, $($field:ident),+ $(,)?) => {
        match $name {
            $(stringify!($field) => {
                $params.$field = $value;
                true
            })+
            _ => false,
        }
    };
}

fn set_time(params: &mut Params, name: &str, secs: f64) -> bool {
    let Ok(time) = Duration::try_from_secs_f64(secs) else { return false };
    by_name!(
        params,
        name,
        time,
        heartbeat,
        stale_after,
        dead_after,
        asker_window,
        stable_after,
        probe_every,
        probe_retry,
        report_lag,
        fairness_window,
        rescue_queue,
        credit,
        demand_half_life,
        demand_long_half_life,
        order_timeout,
        order_retry,
        busy_falls,
        busy_rises,
        probation,
        session_scale,
        new_for,
        copy_life,
        repair_after,
        sync_window,
        slot,
        crowd_quiet,
        gate_wait,
    )
}

fn set_number(params: &mut Params, name: &str, number: f64) -> bool {
    by_name!(
        params,
        name,
        number,
        slow_below,
        beta,
        fairness,
        rescue,
        least_share,
        patience,
        min_share,
        small_file_load,
        origin_load,
        target_utilisation,
        hot_requests,
        sync_share,
        busy_sync_share,
        session_shape,
        break_risk,
        payback,
        origin_sync,
        peer_load,
        spare_room,
        evict_above,
        burst_sigmas,
        gate_share,
    ) || by_name!(
        params,
        name,
        number as usize,
        asker_tries,
        score_all_up_to,
        sample,
        hot_copies,
        max_orders,
        fan_out,
        origin_fan,
    ) || by_name!(params, name, number as u64, small_file, probation_size, gate_bytes)
        || by_name!(params, name, number as u32, burst_slots, burst_requests, burst_release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_set_and_others_are_refused() {
        let mut params = Params::default();
        for (name, value) in
            [("beta", 0.5), ("sample", 4.0), ("small_file", 7.0), ("burst_slots", 3.0), ("slot", 2.5)]
        {
            assert_eq!(set(&mut params, name, &value.into()), Ok(()), "{name}");
        }
        assert_eq!((params.beta, params.sample, params.small_file), (0.5, 4, 7));
        assert_eq!((params.burst_slots, params.slot), (3, Duration::from_millis(2500)));
        for (name, value) in [("gamma", 1.0), ("beta", -1.0), ("beta", f64::NAN), ("heartbeat", 0.0)] {
            assert!(set(&mut params, name, &value.into()).is_err(), "{name}");
        }
        assert!(set(&mut params, "beta", &"much".into()).is_err());
        assert!(set(&mut params, "beta", &true.into()).is_err());
        assert_eq!(set(&mut params, "cut_through", &false.into()), Ok(()));
        assert!(!params.cut_through);
    }
}
