/// The words of an export's report in one language. A word that is missing is shown as it is spelled in the records.
struct ReportWords {
    let language: AuditReport.Language

    init(_ language: AuditReport.Language) { self.language = language }

    subscript(key: String) -> String {
        guard let pair = Self.words[key] else { return key }
        return language == .english ? pair.0 : pair.1
    }

    func event(_ name: String) -> String {
        guard let pair = Self.events[name] else { return name }
        return language == .english ? pair.0 : pair.1
    }

    private static let words: [String: (String, String)] = [
        "title": ("Audit report", "監査報告書"),
        "intro": (
            "What the audit trail records of this period: who decided what, under which policy, and what came of it.",
            "この期間について監査証跡に記録された内容です。誰が、どのポリシーに基づいて何を決定し、どのような結果になったかを示します。"
        ),
        "verify": (
            "This page is made from the records of the export and can be made again from them. What proves them is the signed log beside it: see VERIFY.md.",
            "このページは本エクスポートの記録から作成され、同じ記録から再作成できます。記録の真正性は同梱の署名付きログが証明します(VERIFY.md を参照)。"
        ),
        "log": ("Log", "ログ"), "scope": ("Extent", "範囲"), "run": ("Run", "実行"),
        "dataset": ("Data set", "データセット"), "made": ("Made", "作成日時"), "period": ("Period", "期間"),
        "records": ("Records", "記録数"), "size": ("Entries in the log", "ログの全エントリ数"),
        "root": ("Root of the log's tree", "ログのルートハッシュ"),
        "whole": ("the whole trail", "証跡全体"), "range": ("a period", "期間"),
        "subject": ("one person's data", "一人のデータ主体"),
        "over": ("Records over time", "時間ごとの記録数"),
        "busiest": ("at most # records in % h", "% 時間あたり最大 # 件"),
        "outcomes": ("What came of them", "結果"), "decisions": ("Decisions", "決定"),
        "stops": ("Refusals and failures", "拒否と失敗"), "people": ("Who acted", "操作者"),
        "more": ("# further rows are in the tables.", "ほか # 行は表(CSV)にあります。"),
        "index": ("Entry", "番号"), "time": ("Time (UTC)", "時刻 (UTC)"), "event": ("Event", "事象"),
        "about": ("About", "対象"), "who": ("Who", "操作者"), "decision": ("Decision or outcome", "決定・結果"),
        "reasons": ("Reasons", "理由"), "policy": ("Policy", "ポリシー"),
        "permit": ("permitted", "許可"), "refuse": ("refused", "拒否"), "needs-human": ("waits for people", "人の判断待ち"),
        "done": ("done", "完了"), "refused": ("refused", "拒否"), "failed": ("failed", "失敗"), "intent": ("begun", "開始"),
        "decide": ("decide", "判断"), "open": ("open", "準備"), "attach": ("attach", "接続"), "plan": ("plan", "計画"),
        "train": ("train", "学習"), "scrub": ("scrub", "消去"), "review": ("review", "審査"), "release": ("release", "公開"),
        "closed": ("closed", "終了"),
        "area.access": ("Access", "利用申請"), "area.run": ("Runs", "実行"), "area.device": ("Devices", "計算装置"),
        "area.training": ("Training", "学習"), "area.release": ("Releases", "成果の持出し"),
        "area.data": ("Data and consent", "データと同意"), "area.people": ("People and policy", "利用者とポリシー"),
        "area.trail": ("The gateway", "ゲートウェイ"),
    ]

    /// Every event that a document may tell.
    static let events: [String: (String, String)] = [
        "trail.read": ("Records read", "記録の閲覧"), "trail.exported": ("Trail exported", "証跡のエクスポート"),
        "gateway.started": ("Gateway started", "ゲートウェイの起動"),
        "gateway.recovered": ("Gateway recovered", "ゲートウェイの復旧"), "person.added": ("Person added", "利用者の登録"),
        "policy.proposed": ("Policies proposed", "ポリシーの提案"),
        "policy.signed": ("Policies signed", "ポリシーへの署名"),
        "policy.activated": ("Policy activated", "ポリシーの有効化"),
        "dataset.imported": ("Data set imported", "データセットの取込み"),
        "consent.changed": ("Consent changed", "同意の変更"), "pki.initialised": ("Authority made", "認証局の作成"),
        "node.enrolled": ("Device enrolled", "装置の登録"), "node.added": ("Device added", "装置の追加"),
        "node.quarantined": ("Device quarantined", "装置の隔離"), "node.reinstated": ("Device reinstated", "装置の復帰"),
        "request.filed": ("Request filed", "利用申請"), "request.reviewed": ("Request reviewed", "申請の審査"),
        "request.withdrawn": ("Request withdrawn", "申請の取り下げ"),
        "document.added": ("Document added", "書類の追加"),
        "request.closing": ("End of use reported", "利用終了の報告"),
        "request.closed": ("End of use confirmed", "利用終了の確認"),
        "emergency.reviewed": ("Emergency access reviewed", "緊急利用の事後審査"),
        "access.decided": ("Access decided", "利用可否の決定"), "grant.issued": ("Grant issued", "利用許可の発行"),
        "run.requested": ("Run requested", "実行の申請"), "run.decided": ("Run decided", "実行可否の決定"),
        "run.opened": ("Run opened", "実行の準備"), "device.leased": ("Device leased", "装置の占有"),
        "device.lost": ("Device lost", "装置の喪失"),
        "key.released": ("Run key released", "実行鍵の交付"), "run.planned": ("Run planned", "学習計画"),
        "program.loaded": ("Program loaded", "プログラムの読込み"), "training.epoch": ("Training epoch", "学習エポック"),
        "training.resumed": ("Training resumed", "学習の再開"),
        "progress.shown": ("Progress shown", "途中経過の開示"), "run.trained": ("Training finished", "学習完了"),
        "run.predicted": ("Predictions counted", "予測の集計"),
        "window.refused": ("Access outside windows", "範囲外アクセスの拒否"),
        "device.scrubbed": ("Device scrubbed", "装置の消去"), "release.checked": ("Candidate checked", "成果物の検査"),
        "release.reviewed": ("Release reviewed", "持出しの審査"), "release.decided": ("Release decided", "持出し可否の決定"),
        "release.ready": ("Release ready", "持出し可能"), "release.taken": ("Release taken", "成果の受領"),
        "run.closed": ("Run closed", "実行の終了"), "trail.cosigned": ("Head cosigned", "証人の連署"),
        "witnesses.changed": ("Witnesses changed", "証人の変更"),
        "signing.rotation-asked": ("Signing key to be rotated", "署名鍵更新の指示"),
        "run.stopped": ("Run stopped", "実行の中止"), "access.revoked": ("Access revoked", "利用権限の取消し"),
        "access.restored": ("Access restored", "利用権限の回復"),
        "passports.trusted": ("Issuers of passports set", "パスポート発行者の設定"),
        "identity.linked": ("Identity linked", "外部識別子の関連付け"),
        "passport.presented": ("Passport presented", "パスポートの提示"),
        "run.cancelled": ("Run cancelled", "実行の取消し"),
        "person.signed-in": ("Signed in", "サインイン"), "person.signed-out": ("Signed out", "サインアウト"),
        "credential.issued": ("Credential issued", "認証情報の発行"),
        "credential.revoked": ("Credential revoked", "認証情報の失効"),
        "subject.shred-requested": ("Shredding requested", "鍵破棄の申請"),
        "subject.shredded": ("Person's key shredded", "対象者の鍵の破棄"),
        "configuration.stated": ("Configuration", "構成の記録"), "clock.checked": ("Clock checked", "時刻の確認"),
    ]
}
