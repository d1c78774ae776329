"""OddBench: 60 of its 759 tabular sets for outlier detection, drawn at random, with at most 10,000 rows each.

Source: github.com/psorus/Outformer, benchmarks/oddbench, at commit 99aebce; no licence is stated. The labels were
mined by machine, and some are odd: only means over many tables say something. Written are
``000_HeatVulnerability.npz`` and so on with ``X`` (rows, columns) and ``y`` (1: outlier). They are not recordings.
"""

import shutil
from pathlib import Path

from anomalyvae.datasets import source_file

SOURCE = "github.com/psorus/Outformer at 99aebce, benchmarks/oddbench"
ABOUT = {
    "what": "60 tabular sets of OddBench with outliers labelled by machine; rows, not recordings",
    "licence": "none stated by the authors",
    "source": SOURCE,
    "size_mb": 11.4,
}
SHA256 = {
    "000_HeatVulnerability.npz": "49c6a8061b847d825bf2750d7c7f386e95324515989ab3aeccf6779db7893766",
    "001_TelecomMarketing.npz": "d043281184d72474adcb6330089ff600e538b6066eee1aeee30007e8843ddf49",
    "002_DamageFunctionSources.npz": "90f64bd3966d2e71a86c7d11978a16877017894767bfa46cbe758f26ca013dcf",
    "003_DataBreachRisk.npz": "90159df5d7b26b65664ddb4096f70fd24b298af9b9cfd8c107640aa84b873685",
    "004_ClickFraudDetection.npz": "c1db3f4fb4245dc5aff3115384d7f5411e212bdde90cd533be219a2913ed84ad",
    "005_LandslideVolume.npz": "3a3bcc884a0302b9f1cda585cea0b45c7d7007e57049e5f67ce46ef06d14636f",
    "006_ArtCollections.npz": "105bf06fba8ccc96538ee8fa2c6169a893d7a8fa0a75d1d80d150aad2c714bc8",
    "007_WineFraud.npz": "b86ceed7d04ae8c240280a6e8c0074134e2cd3ba5122e6f5e1ed05bf4e911291",
    "008_SierraLeoneWaterPoints.npz": "437ca4218a8ea1ef5ac1f63b70539536fb8ea80c1dbae0545c1fc5bd4112e2c3",
    "009_RestaurantInspections.npz": "94b472aa1c8c7a5c27f103cde6ebf654c53027be450208577fa5a91d60615bf5",
    "010_TechnicalAnomalies.npz": "e171b9310725639fdefa88a85009849ddc0e9903f8397d2f0b0c515341f0d823",
    "011_DistillationProcess.npz": "8495131eb1109834b22fe391745b30271bcf5e8fae474c4a294857d3c20238f6",
    "012_QuotaStatusTracking.npz": "81b3248115b047b9a8f6f6019c0710c1473fae67c0163923ae6ca8ccfdbea60b",
    "013_GameGathering.npz": "bf71b55061de015fd2d896bec393493976ea17ab86f2b6a1e900bfd94bdc025a",
    "014_OptimizationSolver.npz": "90952d1fe8b3017df26f20dd5b05b4e4b3d4620dbc33e807e61766dfc6e396e9",
    "015_TaskStatusMonitor.npz": "f8a14a1951ba7f1258ca5cd4a8870ade0007923fda891be954373adb171ae631",
    "016_FootballPlayAnomalies.npz": "23f5c769947609c677a7c1f9c9188b15c57702c48fb52d4a2303eb79e148f4a5",
    "017_MiningProjectOutcome.npz": "44d083e92a42070c068ef740d00b827f5c2c1f539b470931d2e1faac308851d7",
    "018_NFLPerformanceAnomalies.npz": "b1505362e68952da85d92990e87c7ecf0ec6e04fbc6702736f87ad26c718fb49",
    "019_AttackTypeLifeExpectancy.npz": "d84dc95e3278ba044798c9f1dc338548b02ad4f6f02247e8e53055d5aa8f4747",
    "020_CandidateVetting.npz": "67e4389ec575be6fc14fef0bc447f00f7ec65ffc28005d1dd9dc65fe222f5085",
    "021_TimeApprovalBilling.npz": "7a53c6fcfd0f7a885f748cef66b94725d753745307dd949bbdb554d1d5a16fcc",
    "022_WikipediaVandalism.npz": "dfa302c7178bb2297842feea9ab405cd39273570c30e1cafc73df85b9cead819",
    "023_DatabaseInventoryStatus.npz": "f11580a8162390d40d71e312f294075c87760d76d08e14fe4fb18c30be7b8572",
    "024_SoftwareDevelopmentEffort.npz": "9ba6eb53d27a9965d368a02237b2f0d5846cb9be1e9dbbad0c16098e7b46cb2b",
    "025_SpotifyUserBehavior.npz": "d324d590a513b13b5ef12bc91c17c422772334222e0df1589331e07a78d97e39",
    "026_NetworkFlowAnomalies.npz": "6902027e84382984d73a0d3230891e2c5232290448a92ef7fae7cdd3af4fd85f",
    "027_DeviceTracking.npz": "0b21f3f26a0608f6ebd042b3189a19ddac2f05c1995381e64786ee7efc251fcc",
    "028_MaritimeSafety.npz": "6d3a3ea57e9a16a94794d363996bc165edd4faa96a6a0f34eaab3cb6f17773c3",
    "029_CodeMetrics.npz": "40f54fe7840558b68c8f139c900cc335f116b0455d3964467a2abc573457cef8",
    "030_RulePriorityAnomalies.npz": "59a99e272e697657aea359385eee375a75512e214a43207a71d637b83603b697",
    "031_AttackIncidents.npz": "95c59cdc1877e37dc5299902941d7f0db99b8b516dd8148cc8263ed7fb43e72c",
    "032_SatallaxBenchmark.npz": "2af84c3bad5370787538b5dbd7bd805982a30869f1be5cd77c326bb69cfc2edd",
    "033_HospitalPayment.npz": "1fe4533e837a702f28a6e8bab4f5ff4d11fd7241a7e8e1437126716f999afb23",
    "034_NetworkThreat.npz": "7b3d5c4bfff778434239a203af8634d1136c970d658062eef08c5155122c335e",
    "035_ChronicDiseaseStats.npz": "4684bbc82e95323da4c63755f0fb4db45e332db951000f5e35e2956c2f46005f",
    "036_SoftwareIssuePriority.npz": "62cd87d209ca5e6aa359dfebe4d4d4472222d7a8779b62428b2874ea983b3961",
    "037_FoodInsecurity.npz": "834cdd67d2f8ecfc6cf5c6eaf4d916f929686c7fd74ccd1a4786b991c7453086",
    "038_ProteinCodonAnalysis.npz": "f7171fdefea2cf419e37384e736604627ff10f54024d0e6fff3fd827ea7eda5c",
    "039_NetworkMetrics.npz": "8fb2f9c315ca14621bce34de0f94cf687a4ba26a4cf5fd15c54aa56415f4cafc",
    "040_BarExamPrediction.npz": "2850cf4f0588f8d1c3b9c382530635c9679a32910da87300046db0c357d6805b",
    "041_StreamMonitoring.npz": "c9c41e16e212e50cf4e8f360afe99b451b5b500ef0c7a971e3529359967cd6be",
    "042_PoliceForceDisturbance.npz": "a1a400e196ed7615462ded4eb59ff50f22815cf4f94679e5a4fe56711cc5f1da",
    "043_TCRSeverity.npz": "8dbef0b99d70807dc2c7a12b2624e6440fb54c02a21a8255ff6e3e7057a1dd7e",
    "044_LanguageAnomaly.npz": "c0553c0d1b917cb35c7988598b2a57d706231bbadd3cad65b684b088651f5fd1",
    "045_CustomerComplaintResponse.npz": "ee592777d8e71bd553eca78e0a1753570b0ecb69d4ccbe09387f85fabe0fa0c9",
    "046_RideFailure.npz": "b3739430ee22545bdd1cd860f0055f027b46910ccedbd5c8cc050630a4d738d9",
    "047_GPUResourceUsage.npz": "7e526aeb82b20c3188b3215f2eb254008680d583432f7834435095475eca1177",
    "048_PriorityClassification.npz": "0296d2e5e5ada9fe37b5816cc2e2ab5a0f391bfe69c84d77570a62c153beb47a",
    "049_BuildingDamage.npz": "89d382b2df79e00e9267c7d4e98825d4fc8f14c8feea6b0b13c5e4883e64d4e7",
    "050_CustomerBehavior.npz": "d0017fe090a2838b9b834d6a3603e14058c5971515e24e9e39b93ee4c1dfa8ca",
    "051_CardFraudDetection.npz": "455f72bb64572455cf116b9b926270e34cda3edb37ff7c70084b31323b1efded",
    "052_VehicleTelemetry.npz": "675ef08c3064de20a303bcc03700300c90691d5f98ad90b54bf758385595f898",
    "053_BusinessProcessFraud.npz": "df0d93255a67e0cb47989cf304cec7e78ff4319eb6c1505b291369f6ab111de2",
    "054_TeachingHoursDivision.npz": "38926b5abc7a4d6823c5639c9cc225e2a904214f6bad26faba0dbc6af3564f03",
    "055_SportsPlayAnomalies.npz": "bd80cb8d39c7b0d76c8cf4845d7a17fc00090df5b546a8dcd35f3baa6288926d",
    "056_CodeStrata.npz": "580ee452392006338196aaf7d284d4b5962c7ac5d9f6cc66b24f7805b7f8d340",
    "057_ManhattanCrime.npz": "632793e6cfc8975768df1288111239357213220a90653a5ba5a80834daca8158",
    "058_GazeTracking.npz": "bf90e74155178c56d0be8544d5db18f3871ffd322d42efbe6cabad480fb13f95",
    "059_AquaticBreach.npz": "57b7e3034364c46c820490b390f7dd4a5b16af20906c8b2e4cb3b915ddb34df5",
}


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    for name, sha256 in SHA256.items():
        shutil.copyfile(source_file("oddbench", name, sha256=sha256, origin=SOURCE), folder / name)
