//! A port whose call panics or never returns: the actor that sent the work out goes on.

use super::{
    admission::{ask, at_once, daily, of},
    shared::Common,
    *,
};

/// Longer than any work that is sent out may take.
const LONG: Duration = Duration::from_secs(31 * 60);

#[tokio::test(start_paused = true)]
async fn the_audit_stores_what_waits_once_the_database_is_well() {
    for fault in Fault::ALL {
        let stage = Stage::new(places(100), &[]).await;
        stage.database.fault(Some(fault));
        stage.record(1).unwrap();
        sleep(Duration::from_secs(1)).await;
        stage.database.fault(None);
        stage.record(2).unwrap();
        let stored = timeout(Duration::from_secs(90), stage.system.handles.audit.flush()).await;
        assert!(stored.is_ok(), "{fault:?}: nothing is stored any more");
        assert_eq!(stage.database.events(), [1, 2], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_sweeps_again() {
    for fault in Fault::ALL {
        let stage = Stage::new(Settings::default(), &[]).await;
        let swept = || stage.database.with(|stored| (stored.prepared, stored.prompts_swept.len()));
        eventually("the first round", || swept() == (1, 1)).await;
        stage.database.fault(Some(fault));
        sleep(Duration::from_secs(3_700)).await;
        stage.database.fault(None);
        let before = swept();
        sleep(LONG).await;
        let after = swept();
        assert!(after.0 > before.0 && after.1 > before.1, "{fault:?}: {before:?}, {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_whose_ledger_read_fails_answers_and_reads_again() {
    for fault in Fault::ALL {
        let stage = Stage::new(Settings::default(), &[]).await;
        let admission = &stage.system.handles.admission;
        let limited = || of(100, ask(1, 1, daily(1_000), daily(1_000)));
        stage.database.fault(Some(fault));
        let began = Instant::now();
        assert_eq!(admission.admit(limited()).await.map(drop), Err(Denied::Unavailable));
        assert!(began.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", began.elapsed());
        stage.database.fault(None);
        let permit = admission.admit(limited()).await;
        assert!(permit.is_ok(), "{fault:?}: {:?}", permit.err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_whose_exchange_fails_answers_and_loses_nothing() {
    for fault in Fault::ALL {
        let common = Common::new();
        let shared = Some(Arc::clone(&common) as Arc<dyn Admission>);
        let stage = Stage::sharing(Settings::default(), &[], shared).await;
        let admission = &stage.system.handles.admission;
        let limited = || ask(1, 1, at_once(1), Limits::default());
        let held = admission.admit(limited()).await.unwrap();
        *common.fault.lock() = Some(fault);
        for _ in 0..10 {
            let answer = admission.admit(limited()).await.map(drop);
            assert_eq!(answer, Err(Denied::Unavailable), "{fault:?}");
            sleep(Duration::from_secs(1)).await;
        }
        // That this slot is free again is told in an exchange that fails.
        drop(held);
        sleep(Duration::from_secs(1)).await;
        *common.fault.lock() = None;
        sleep(Duration::from_secs(90)).await;
        let permit = admission.admit(limited()).await;
        assert!(permit.is_ok(), "{fault:?}: {:?}", permit.err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_polled_again() {
    for fault in Fault::ALL {
        let stage = Stage::new(Settings::default(), &["one"]).await;
        eventually("the models", || stage.models().is_ok()).await;
        *stage.servers.fault.lock() = Some(fault);
        sleep(Duration::from_secs(400)).await;
        assert!(stage.models().is_err(), "{fault:?}: the fault has no effect");
        *stage.servers.fault.lock() = None;
        sleep(Duration::from_secs(60)).await;
        assert!(stage.models().is_ok(), "{fault:?}: it is not polled any more");
    }
}
